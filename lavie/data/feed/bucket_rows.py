"""The rows of a run of several sizes: each row has the size of its step's bucket."""

from collections.abc import Mapping

from ...config.data import DegradationConfig
from ..cache.cache import Cache
from ..decoders.dali_rules import Device
from ..order.buckets import Buckets
from .rows import Announce, ClipRows, Row


class BucketRows:
    """The rows of a run, each of the size of its step's bucket. A run of one size has one bucket.

    Args:
        buckets: the sizes of the run, and the bucket of each step.
        seed: the run's seed.
        caches: for each bucket's name, the cache whose entries rows hold in place of pixels; None for pixels.
        global_batch: positions of a step.
        degradation: how the clip's low resolution is made, if rows are to have it.
        dali: the device on which DALI decodes the clips that it serves; None if PyAV decodes all.
    """

    def __init__(
        self,
        buckets: Buckets,
        seed: int,
        caches: Mapping[str, Cache] | None = None,
        *,
        global_batch: int,
        degradation: DegradationConfig | None = None,
        dali: Device | None = None,
    ) -> None:
        """Make the rows of every bucket; the arguments are those of the class."""
        self._steps, self._global_batch = buckets.steps, global_batch

        # Every bucket numbers the steps that are its own, so that its samples follow each other without a gap.
        self._by_bucket = [
            ClipRows(
                bucket.datasets,
                bucket.data,
                seed,
                global_batch=global_batch,
                degradation=degradation,
                step_count=bucket.step_count,
                image_step_count=bucket.image_step_count,
                cache=caches[bucket.name] if caches else None,
                dali=dali,
            )
            for bucket in buckets.all
        ]

        # One size of slot serves the rows of all buckets.
        self.row_bytes = max(rows.row_bytes for rows in self._by_bucket)

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """See Rows.row."""
        bucket, _ = self._steps.at(position // self._global_batch)
        return self._by_bucket[bucket].row(position, unreadable, announce)
