"""What a global position holds: pixels and captions, as a function of the dataset, the configuration and the seed.

With a cache, it holds what the frozen encoders said of them.

A sample that cannot be read is replaced by a spare that is drawn the same way, and reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from ...config.data import DataConfig, DegradationConfig
from ...errors import DataError
from ...seeds import key64, numpy_generator, uniform
from ..cache.cache import Cache
from ..decoders.clip import DecodedClip, EncodedClip
from ..decoders.dali import MAX_FILE, Device, clip_for_dali
from ..media.camera import camera_path, moving_clip
from ..media.clips import clip_indices, cut_scale, fit
from ..media.decode import decode_image, indexed_times, read_frames
from ..media.degrade import degrade
from ..order.datasets import SampleOrder, WeightedDataset, image_order, video_order
from ..order.mixture import StepCount
from ..order.permutation import image_positions
from ..shards.index import Index
from ..shards.index_file import Sample
from ..shards.member import read_member

MAX_SPARES = 20
"""Spares tried for one place of a batch: if all fail, the dataset is damaged as a whole."""
SAMPLED = 16
"""data.verify "sampled" compares the hash at one position in so many."""

Announce = Callable[[str], None]


class Dropped(TypedDict):
    """A sample that was replaced by a spare."""

    key: str
    reason: str
    position: int
    """The global position of the batch row that missed it."""


class Row(TypedDict):
    """One clip and the images joined to it. F = num_frames, N = num_images."""

    pixels: NotRequired[torch.Tensor]
    """uint8 (F + N, H, W, 3), RGB; the images come last. (N, H, W, 3) where DALI is to decode the clip. Not
    with a cache, which gives the three below."""
    mean: NotRequired[torch.Tensor]
    """(F + N, C, h, w), in the cache's dtype: of the autoencoder's posterior, scaled."""
    std: NotRequired[torch.Tensor]
    """Like `mean`; absent where the latents are certain."""
    text: NotRequired[torch.Tensor]
    """(1 + N, L, D): the features of `captions`."""
    low_res: NotRequired[torch.Tensor]
    """uint8 (F, H / scale, W / scale, 3): the clip degraded, if the loader was given how."""
    clip: NotRequired[EncodedClip | DecodedClip]
    """If DALI decodes: what it is given, or why `pixels` have the clip."""
    media: NotRequired[torch.Tensor]
    """uint8 (bytes,): the `data` of an EncodedClip; empty for a DecodedClip."""
    captions: list[str]
    """1 + N: the clip's, then each image's."""
    keys: list[str]
    """1 + N."""
    position: int
    dropped: list[Dropped]


class Rows(Protocol):
    """What holds the row of each position."""

    @property
    def row_bytes(self) -> int:
        """The most bytes that the arrays of a row have."""

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """As ClipDataset.row."""


class ClipDataset(Dataset):
    """Maps a global position to its Row. `centred` cuts the middle of every frame instead of a random place.

    The datasets are mixed by their weights at step position // global_batch. A share data.moving_images of the rows
    shows an image under a wandering camera for a clip. With `degradation`, rows hold the clip's low resolution too.
    With `cache`, which data.cuts must be set for, they hold its entries in place of pixels.
    With `dali`, the device that it decodes on, rows leave the clips to it that it serves.
    """

    def __init__(
        self,
        pools: Index | Sequence[WeightedDataset],
        data: DataConfig,
        seed: int,
        *,
        global_batch: int = 1,
        centred: bool = False,
        degradation: DegradationConfig | None = None,
        step_counts: tuple[StepCount | None, StepCount | None] = (None, None),
        cache: Cache | None = None,
        dali: Device | None = None,
    ) -> None:
        """step_counts: of the steps whose positions are taken, if not of all; and of those whose images are."""
        pools = (WeightedDataset(pools),) if isinstance(pools, Index) else pools
        self._data, self._seed, self._centred, self._degradation = data, seed, centred, degradation
        self._dali, self._media_bytes = dali, _largest(pools) if dali else 0
        self._cache = cache
        video_steps, image_steps = step_counts
        self._videos = video_order(pools if data.moving_images < 1 else (), seed, global_batch, video_steps)
        per_step = global_batch * max(1, data.num_images)
        self._images = image_order(pools if data.num_images else (), seed, per_step, step_count=image_steps)
        self._moving = image_order(
            pools if data.moving_images else (), seed, global_batch, "moving images", image_steps
        )

    def __getitem__(self, position: int) -> Row | DataError:
        """The row, or the DataError for which there is none."""
        try:
            return self.row(position)
        except DataError as error:
            return error

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """The row at a position. Raises DataError if neither a sample nor any of its spares can be read.

        `unreadable` gives the reason for each sample, by its `place`, that is not to be tried here; `announce` is told
        the `place` of every sample before it is read.
        """
        dropped: list[Dropped] = []

        def pick(order: SampleOrder, load: Callable[[Sample, int], Any], at: int) -> tuple[Sample, Any]:
            """The sample at `at` of its order, or the first spare that can be read."""
            failures: list[Dropped] = []
            for attempt in range(1 + MAX_SPARES):
                sample = order.at(at, attempt)
                try:
                    if reason := (unreadable or {}).get(place(sample)):
                        raise DataError(f"{place(sample)}: {reason}")
                    if announce:
                        announce(place(sample))
                    loaded = load(sample, at)
                except DataError as error:
                    failures.append({"key": sample.key, "reason": str(error), "position": position})
                else:
                    dropped.extend(failures)
                    return sample, loaded
            raise DataError(
                f"position {position}: {len(failures)} samples in a row cannot be read, the last being "
                f"{failures[-1]['key']}: {failures[-1]['reason']}. Check the folders of data.train, or pack them again"
            )

        moves = uniform(self._seed, "moving image", position) < self._data.moving_images
        load_clip, load_image = (self._entry, self._entry) if self._cache else (self._clip, self._image)
        clip = (self._moving, self._moving_image) if moves else (self._videos, load_clip)
        picked = [pick(*clip, position)]
        picked += [pick(self._images, load_image, p) for p in image_positions(position, self._data.num_images)]
        row = Row(
            captions=[sample.caption for sample, _ in picked],
            keys=[sample.key for sample, _ in picked],
            position=position,
            dropped=dropped,
        )
        parts = [loaded for _, loaded in picked]
        if self._dali:
            row["clip"], row["media"] = self._hand_over(picked[0][0], parts)
        if self._cache:
            row.update({name: torch.cat([part[name] for part in parts]) for name in parts[0]})  # type: ignore[typeddict-item]
        else:
            row["pixels"] = torch.from_numpy(np.concatenate(parts))
        if self._degradation:
            generator = numpy_generator(self._seed, "degradation", position)
            row["low_res"] = torch.from_numpy(degrade(picked[0][1], self._degradation, generator))
        return row

    @property
    def row_bytes(self) -> int:
        """The most that a row's arrays take."""
        if self._cache:
            return self._cache.row_bytes
        data, frame = self._data, self._data.height * self._data.width * 3
        low = data.num_frames * (frame // self._degradation.scale**2) if self._degradation else 0
        return max(data.num_frames * frame, self._media_bytes) + data.num_images * frame + low

    def _clip(self, sample: Sample, at: int) -> np.ndarray | EncodedClip | tuple[np.ndarray, str]:
        """uint8 (F, H, W, 3); with DALI, what it is given, or the frames and why it is not."""
        data = self._read(sample, "clip", at)
        times = indexed_times(data, sample.frames, sample.fps, sample.vfr)
        u = self._draw(sample, "clip", at)
        want = self._data
        indices = clip_indices(times, want.num_frames, fps=want.fps, frame_stride=want.frame_stride, u=u)
        refused = ""
        if self._dali:
            clip = clip_for_dali(sample, data, indices, *self._uv(sample, "crop", at), self._dali)
            if isinstance(clip, EncodedClip):
                return clip
            refused = clip
        frames = self._fit(sample, read_frames(data, indices, sample.frames), "crop", at)
        return (frames, refused) if refused else frames

    def _hand_over(self, sample: Sample, parts: list[Any]) -> tuple[EncodedClip | DecodedClip, torch.Tensor]:
        """A row's `clip` and `media`; the first of `parts`, its clip, makes way for the frames that the row shows."""
        match parts[0]:
            case EncodedClip() as clip:
                parts[0] = np.empty((0, self._data.height, self._data.width, 3), np.uint8)
                return replace(clip, data=b""), torch.from_numpy(np.frombuffer(clip.data, np.uint8).copy())
            case (frames, reason):
                parts[0] = frames
            case _:
                reason = "it is an image under a moving camera"
        return DecodedClip(sample.key, reason), torch.empty(0, dtype=torch.uint8)

    def _image(self, sample: Sample, at: int) -> np.ndarray:
        """uint8 (1, H, W, 3)."""
        return self._fit(sample, [decode_image(self._read(sample, "image", at))], "image crop", at)

    def _moving_image(self, sample: Sample, at: int) -> np.ndarray:
        """uint8 (F, H, W, 3)."""
        want, image = self._data, decode_image(self._read(sample, "clip", at))
        source_height, source_width = image.shape[:2]
        scale = cut_scale(source_height, source_width, want.height, want.width, want.crop)
        room = scale * source_width - want.width, scale * source_height - want.height
        path = camera_path(want.num_frames, want.camera_speed, room, numpy_generator(self._seed, "camera", at))
        return moving_clip(image, path, want.height, want.width, scale)

    def _entry(self, sample: Sample, at: int) -> dict[str, torch.Tensor]:
        """As Cache.read."""
        assert self._cache
        return self._cache.read(sample, self._cut(sample, at), verify=self._verified(sample.kind, at))

    def _read(self, sample: Sample, purpose: str, at: int) -> bytes:
        return read_member(sample, verify=self._verified(purpose, at), timeout=self._data.timeout)

    def _verified(self, purpose: str, at: int) -> bool:
        verify = self._data.verify
        sampled = verify == "sampled" and key64(self._seed, f"verify {purpose}", at) % SAMPLED == 0
        return verify == "always" or sampled

    def _cut(self, sample: Sample, at: int) -> int:
        """Which of its data.cuts cuts a sample shows at a position of its order."""
        assert self._data.cuts
        return key64(self._seed, f"{sample.kind} cut", at) % self._data.cuts

    def _draw(self, sample: Sample, purpose: str, at: int, *axis: int) -> float:
        """In [0, 1): drawn at the position, or, with data.cuts, for the cut: the same in runs of any seed."""
        if self._data.cuts is None or self._centred:
            return uniform(self._seed, purpose, at, *axis)
        return uniform(0, f"{purpose} of {sample.sha256}", self._cut(sample, at), *axis)

    def _uv(self, sample: Sample, purpose: str, at: int) -> tuple[float, float]:
        """(u, v): where a frame is cut, across and down."""
        u, v = (0.5 if self._centred else self._draw(sample, purpose, at, axis) for axis in range(2))
        return u, v

    def _fit(self, sample: Sample, frames: Any, purpose: str, at: int) -> np.ndarray:
        return fit(frames, self._data.height, self._data.width, *self._uv(sample, purpose, at), self._data.crop)


def place(sample: Sample) -> str:
    """Where a sample lies: its shard, its offset there and its key."""
    return f"{sample.shard}:{sample.offset}:{sample.key}"


def _largest(pools: Sequence[WeightedDataset]) -> int:
    """Bytes of the largest video that DALI may be given."""
    return min(MAX_FILE, max((int(p.index.videos.column("size").max()) for p in pools if p.index.videos), default=0))
