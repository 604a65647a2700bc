"""What each global position of a run holds: which samples, in which order, and which spare if one cannot be read.

A row is a function of the datasets, the configuration, the seed and the position. Reading a sample is the business of
`sample`; a sample that cannot be read is replaced by a spare that is drawn from the same order, and reported.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NotRequired, Protocol, TypedDict

import torch

from ...config.data import DataConfig, DegradationConfig
from ...errors import DataError
from ...seeds import key64, numpy_generator, uniform
from ..cache.cache import Cache
from ..decoders.clip import DecodedClip, EncodedClip
from ..decoders.dali_rules import MAX_FILE, Device
from ..media.degrade import degrade
from ..order.datasets import WeightedDataset
from ..order.exclude import excluded_keys
from ..order.mixture import StepCount
from ..order.permutation import image_positions
from ..order.sample_order import SampleOrder, image_order, video_order
from ..shards.index_file import Sample
from .sample import CacheReader, Content, MovingImageReader, PixelReader, SampleReader

MAX_SPARES = 20
"""Spares tried for one sample of a row: if all fail, the dataset is damaged as a whole."""

Announce = Callable[[str], None]
"""Takes the address of a sample that is about to be read."""


class Dropped(TypedDict):
    """A sample that was replaced by a spare."""

    key: str
    reason: str
    position: int
    """The global position of the row that lacks the sample."""


class Row(TypedDict):
    """One clip and the images joined to it. F = num_frames, N = num_images.

    With data.images_alone there is no clip: F is 0, and `captions` and `keys` are those of the N images.

    Either `pixels` are present, or, in a run with a cache, `mean`, `std` and `text`.
    """

    pixels: NotRequired[torch.Tensor]
    """uint8 (F + N, H, W, 3), RGB; the images come last. (N, H, W, 3) if `clip` is an EncodedClip."""
    mean: NotRequired[torch.Tensor]
    """Mean of the autoencoder's posterior, scaled: (F + N, C, h, w) in the cache's dtype."""
    std: NotRequired[torch.Tensor]
    """Standard deviation of the posterior, with the shape and dtype of `mean`; absent where latents are certain."""
    text: NotRequired[torch.Tensor]
    """Text features of `captions`: (1 + N, L, D) in the cache's dtype."""
    low_res: NotRequired[torch.Tensor]
    """The clip degraded: uint8 (F, H / scale, W / scale, 3). Only if the rows were given a degradation."""
    clip: NotRequired[EncodedClip | DecodedClip]
    """The clip that DALI is to decode, or why PyAV has decoded it. Only in a run with DALI."""
    captions: list[str]
    """1 + N captions: the clip's, then each image's."""
    keys: list[str]
    """1 + N keys of samples: the clip's, then each image's."""
    position: int
    dropped: list[Dropped]


TENSORS = ("pixels", "low_res", "mean", "std", "text")
"""The fields of a Row that are tensors. Those of a row have one dtype: uint8, or that of the cache."""


class Rows(Protocol):
    """Maps a position to its Row."""

    @property
    def row_bytes(self) -> int:
        """The most bytes that the tensors of a row, and the file of a clip that is left to DALI, have together."""

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """Return the row at a position.

        Args:
            position: counted from 0.
            unreadable: for samples that must not be read here, by their address: the reason.
            announce: called with the address of every sample before it is read.

        Raises:
            DataError: if neither a sample of the row nor any of its spares can be read.
        """


@dataclass
class RowReading:
    """The reading of the samples of one row, and a record of those that failed."""

    position: int
    """The global position of the row."""
    unreadable: Mapping[str, str]
    announce: Announce | None
    excluded: Container[str] = ()
    """Keys of samples that are not wanted."""
    dropped: list[Dropped] = field(default_factory=list)

    def read(self, reader: SampleReader, sample: Sample, position: int, cut: int | None) -> Content | None:
        """Read a sample, if it is wanted and not known to fail. Returns None if it fails, which `dropped` then says.

        The arguments are those of SampleReader.read.
        """
        try:
            if sample.key in self.excluded:
                raise DataError(f"{address(sample)}: data.exclude leaves it out")
            if reason := self.unreadable.get(address(sample)):
                raise DataError(f"{address(sample)}: {reason}")
            if self.announce:
                self.announce(address(sample))
            return reader.read(sample, position, cut)
        except DataError as error:
            self.dropped.append({"key": sample.key, "reason": str(error), "position": self.position})
            return None


class ClipRows:
    """The rows of a run whose clips have one size.

    The datasets are mixed by their weights at step position // global_batch. A share data.moving_images of the rows
    shows an image under a moving camera in place of a video's clip.

    Args:
        datasets: the datasets, with their weights.
        data: the configuration, of one size of clips.
        seed: the run's seed.
        global_batch: positions of a step.
        centred: cut the middle of every frame instead of a random place.
        degradation: how the clip's low resolution is made, if rows are to have it.
        step_count: counts the steps whose positions are taken, if not all are.
        image_step_count: counts the steps whose images are taken, if not all are.
        cache: where the entries lie that rows hold in place of pixels; data.cuts must be set.
        dali: the device on which DALI decodes the clips that it serves; None if PyAV decodes all.
    """

    def __init__(
        self,
        datasets: Sequence[WeightedDataset],
        data: DataConfig,
        seed: int,
        *,
        global_batch: int = 1,
        centred: bool = False,
        degradation: DegradationConfig | None = None,
        step_count: StepCount | None = None,
        image_step_count: StepCount | None = None,
        cache: Cache | None = None,
        dali: Device | None = None,
    ) -> None:
        """Choose the readers and the orders of the samples; the arguments are those of the class."""
        self._data, self._seed, self._degradation = data, seed, degradation
        self._cuts = None if centred else data.cuts
        self._excluded = excluded_keys(data)
        self.row_bytes = cache.row_bytes if cache else _row_bytes(datasets, data, degradation, dali)

        # The readers are chosen here: how samples are read does not change from row to row.
        self._reader: SampleReader
        if cache:
            self._reader = CacheReader(cache, data, seed)
        else:
            self._reader = PixelReader(data, seed, centred=centred, dali=dali)
        self._moving_reader = MovingImageReader(data, seed, dali=dali is not None)

        # An order that no row uses is an order of no datasets, whose weights are not checked.
        self._videos = video_order(datasets if data.takes_videos else (), seed, global_batch, step_count)
        images_per_step = global_batch * max(1, data.num_images)
        self._images = image_order(
            datasets if data.num_images else (), seed, images_per_step, step_count=image_step_count
        )
        moving_datasets = datasets if data.moving_images else ()
        self._moving = image_order(moving_datasets, seed, global_batch, "moving images", image_step_count)

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """See Rows.row."""
        reading = RowReading(position, unreadable or {}, announce, self._excluded)

        # The clip comes first, then the images joined to it.
        samples = []
        if self._data.images_alone:
            pass
        elif uniform(self._seed, "moving image", position) < self._data.moving_images:
            samples = [self._pick(reading, self._moving, self._moving_reader, position)]
        else:
            samples = [self._pick(reading, self._videos, self._reader, position)]
        for image_position in image_positions(position, self._data.num_images):
            samples.append(self._pick(reading, self._images, self._reader, image_position))

        # Frames of the clip and of the images are joined along time.
        row = Row(
            captions=[sample.caption for sample, _ in samples],
            keys=[sample.key for sample, _ in samples],
            position=position,
            dropped=reading.dropped,
        )
        contents = [content for _, content in samples]
        tensors = {name: torch.cat([c.tensors[name] for c in contents]) for name in contents[0].tensors}
        row.update(tensors)  # type: ignore[typeddict-item]
        if clip := contents[0].clip:
            row["clip"] = clip
        if self._degradation:
            generator = numpy_generator(self._seed, "degradation", position)
            low_res = degrade(contents[0].tensors["pixels"].numpy(), self._degradation, generator)
            row["low_res"] = torch.from_numpy(low_res)
        return row

    def _pick(
        self, reading: RowReading, order: SampleOrder, reader: SampleReader, position: int
    ) -> tuple[Sample, Content]:
        """Return the sample at a position of an order, or the first spare that can be read, with its content."""
        for attempt in range(1 + MAX_SPARES):
            sample = order.at(position, attempt)
            content = reading.read(reader, sample, position, self._cut(sample, position))
            if content:
                return sample, content
        last = reading.dropped[-1]
        raise DataError(
            f"position {reading.position}: {1 + MAX_SPARES} samples in a row cannot be read, the last being "
            f"{last['key']}: {last['reason']}. Check the folders of data.train, or pack them again"
        )

    def _cut(self, sample: Sample, position: int) -> int | None:
        """Return which of its fixed cuts a sample shows at a position of its order; None if there are no fixed ones."""
        if self._cuts is None:
            return None
        return key64(self._seed, f"{sample.kind} cut", position) % self._cuts


def address(sample: Sample) -> str:
    """Return where a sample lies, as shard:offset:key."""
    return f"{sample.shard}:{sample.offset}:{sample.key}"


def _row_bytes(
    datasets: Sequence[WeightedDataset], data: DataConfig, degradation: DegradationConfig | None, dali: Device | None
) -> int:
    """Return the most bytes that a row of pixels has, with the file of its clip where DALI is to decode it."""
    frame = data.height * data.width * 3
    clip = 0 if data.images_alone else data.num_frames * frame
    low_res = data.num_frames * (frame // degradation.scale**2) if degradation else 0
    if dali:
        # A row has the clip's file or its frames. DALI is given no file above MAX_FILE.
        largest = max((int(d.index.videos.column("size").max()) for d in datasets if d.index.videos), default=0)
        clip = max(clip, min(largest, MAX_FILE))
    return clip + data.num_images * frame + low_res
