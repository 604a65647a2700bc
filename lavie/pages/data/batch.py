"""The rows of one step of a run, bit for bit as training reads them."""

from ...config.data import DataConfig
from ...config.train import TrainConfig
from ...data.feed.bucket_rows import BucketRows
from ...data.feed.rows import Row
from ...data.order.buckets import load_buckets
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
        self._buckets = load_buckets(config.data, config.data.train, config.seed)
        self._homes: dict[str, DataConfig] | None = None
        self.renew()

    def renew(self) -> None:
        """Read the list of data.exclude anew."""
        degradation = self.config.low_resolution
        self._reader = BucketRows(self._buckets, self.config.seed, global_batch=self.rows, degradation=degradation)

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
            ConfigError: there is no such step or place.
            DataError: no sample can be read there.
        """
        self.require(step)
        if not 0 <= place < self.rows:
            raise ConfigError(f"row {place}: wanted one from 0 to {self.rows - 1}")
        return self._reader.row((step - 1) * self.rows + place)

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
