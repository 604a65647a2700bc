"""What the data of a run costs to decode, measured on some of its own rows, and the cores that a GPU asks for."""

import math
import statistics
import time
from dataclasses import dataclass

from ...config.data import DataConfig, DegradationConfig
from ..order.buckets import load_buckets
from ..order.sample_order import video_order
from .bucket_rows import BucketRows
from .cores import MOST, SPARED

OTHER = "images, or a spare"
"""The source of a row whose clip is no video of the order: images alone, a moving one, or one that stands in."""


@dataclass(frozen=True)
class RowCost:
    """What one row cost: a clip with its images."""

    source: str
    """The size, rate and codec of the clip's file, as "1280 x 720, 30 fps, h264"; or OTHER."""
    seconds: float
    """The seconds that one core took."""


def measure_rows(
    data: DataConfig, seed: int, count: int, degradation: DegradationConfig | None = None
) -> list[RowCost]:
    """Return what the first rows of a run cost on this machine, read and decoded in this thread by PyAV.

    The processor's time counts, so that other work on the machine matters little. A row before them, which starts
    everything, is not counted.

    Args:
        data: the configuration.
        seed: the run's.
        count: rows, 1 or more.
        degradation: how the clips' low resolution is made, if the run's batches have it.

    Raises:
        DataError: the datasets cannot serve the configuration.
    """
    buckets = load_buckets(data, data.train, seed)
    rows = BucketRows(buckets, seed, global_batch=1, degradation=degradation)
    rows.row(count)
    costs = []
    for position in range(count):
        start = time.thread_time()
        row = rows.row(position)
        seconds = time.thread_time() - start
        source = OTHER
        if data.takes_videos:
            bucket = buckets.at(position)
            video = video_order(bucket.datasets, seed, 1, bucket.step_count).at(position, 0)
            if row["keys"][:1] == [video.key]:
                source = f"{video.width} x {video.height}, {video.fps or 0:.4g} fps, {video.codec}"
        costs.append(RowCost(source, seconds))
    return costs


@dataclass(frozen=True)
class Need:
    """What a machine must give to its GPUs, and what it has."""

    row_seconds: float
    """Seconds of a core for a row, the mean."""
    rate: float
    """Rows that a GPU trains on in a second."""
    cores: int
    """Cores of the machine."""
    gpus: int
    """GPUs of the machine, a rank each."""

    @property
    def decoding(self) -> float:
        """Cores that decode for a GPU."""
        return self.row_seconds * self.rate

    @property
    def workers(self) -> int:
        """Decoding processes for a GPU: data.num_workers."""
        return max(1, math.ceil(self.decoding))

    @property
    def default_workers(self) -> int:
        """Decoding processes that a rank has by default."""
        return min(max(1, self.cores // self.gpus - SPARED), MOST)

    @property
    def possible(self) -> float:
        """Rows a second that a GPU gets at most, with a process for each core that its rank can spare."""
        return max(1, self.cores // self.gpus - SPARED) / self.row_seconds

    def verdict(self) -> str:
        """Return in a sentence whether the machine suffices, and what to change."""
        if self.workers <= self.default_workers:
            return f"enough: by default each rank has {self.default_workers} decoding processes"
        if self.possible >= self.rate:
            return f"enough with data.num_workers={self.workers}: by default each rank has {self.default_workers}"
        return (
            f"too few: a GPU would get {self.possible:.2g} rows a second of {self.rate:.3g}; train from cached latents "
            "(lavie data cache), set data.resampler=swscale-1 or data.decoder=dali, or pack smaller files"
        )


def by_source(costs: list[RowCost]) -> dict[str, tuple[int, float]]:
    """Return for each source, the dearest first, how many rows had it and their mean cost in seconds of a core."""
    groups: dict[str, list[float]] = {}
    for cost in costs:
        groups.setdefault(cost.source, []).append(cost.seconds)
    means = {source: (len(seconds), statistics.fmean(seconds)) for source, seconds in groups.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1][1]))
