"""The rows of one step of a run, bit for bit as training reads them."""

import threading

from ...config.data import DataConfig
from ...config.train import TrainConfig
from ...data.feed.bucket_rows import BucketRows
from ...data.feed.rows import Row
from ...data.order.buckets import load_buckets
from ...data.order.exclude import excluded_keys
from ...data.shards.index_file import Sample
from ...errors import ConfigError


class RunBatches:
    """The batches of a run, row by row."""

    def __init__(self, config: TrainConfig, world_size: int = 1) -> None:
        """Load the datasets of a run.

        Args:
            config: the run. Where it reads a cache, the pixels are shown that the encoders were given.
            world_size: its ranks.

        Raises:
            ConfigError, DataError: as `load_buckets` does.
        """
        self.config = config
        self.rows = config.train_batch_size * config.gradient_accumulation_steps * world_size
        """How many rows a step has, over all ranks."""
        self._lock = threading.Lock()
        self._homes: dict[str, DataConfig] | None = None
        self._reader: BucketRows | None = None
        self._excluded: frozenset[str] = frozenset()
        self.renew()

    def renew(self) -> BucketRows:
        """Return the reader of rows, from datasets that are loaded anew if the list of data.exclude has changed.

        Raises:
            ConfigError, DataError: as training does, which takes no list of more than a share of a dataset.
        """
        config = self.config
        with self._lock:
            excluded = excluded_keys(config.data)
            if self._reader is None or excluded != self._excluded:
                self._reader = None
                self._buckets, self._excluded = load_buckets(config.data, config.data.train, config.seed), excluded
                degradation = config.low_resolution
                self._reader = BucketRows(self._buckets, config.seed, global_batch=self.rows, degradation=degradation)
            return self._reader

    def require(self, step: int) -> None:
        """Raise ConfigError unless the run has a step of this number, from 1, as metrics and --replay count."""
        if not 1 <= step <= self.config.max_train_steps:
            raise ConfigError(f"--step {step}: wanted a step from 1 to max_train_steps, {self.config.max_train_steps}")

    def row(self, step: int, place: int) -> Row:
        """Return a row of a step: pixels, captions, keys, and for which samples spares stand in.

        It is that of `build_loader`, decoded by PyAV.

        Args:
            step: from 1.
            place: from 0, below `rows`; the ranks' rows follow each other in their order.

        Raises:
            ConfigError: there is no such step or place, or training would refuse the list of data.exclude.
            DataError: no sample can be read there.
        """
        self.require(step)
        if not 0 <= place < self.rows:
            raise ConfigError(f"row {place}: wanted one from 0 to {self.rows - 1}")
        return self.renew().row((step - 1) * self.rows + place)

    def size(self, step: int) -> DataConfig:
        """Return the data section, of one size, by which the rows of a step are read."""
        return self._buckets.at(step - 1).data

    def size_of(self, sample: Sample) -> DataConfig:
        """Return the data section, of one size, by which a sample is cut: that of its bucket."""
        if len(self._buckets.all) == 1:
            return self._buckets.all[0].data
        if self._homes is None:
            self._homes = {
                key: bucket.data
                for bucket in self._buckets.all
                for dataset in bucket.datasets
                for key in dataset.index.sample_keys()
            }
        return self._homes.get(sample.key, self._buckets.all[0].data)
