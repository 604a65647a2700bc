"""From global positions to batches of pixels and captions.

What a position holds depends on the dataset, the configuration and the seed only: not on ranks, workers, or where the
run was resumed. A sample that cannot be read is replaced by a spare that is drawn the same way, and reported.
"""

import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..config import DataConfig, DegradationConfig
from ..errors import DataError
from ..seeds import numpy_generator, uniform
from .camera import camera_path, moving_clip
from .clips import clip_indices, cut_scale, fit, fits
from .decode import decode_image, indexed_times, read_frames
from .degrade import degrade
from .index import Index, Sample, load_index
from .shards import read_member
from .stream import image_positions, positions, sample_at, spare_at

log = logging.getLogger("lavie")

MAX_SPARES = 20
"""Spares tried for one place of a batch: if all fail, the dataset is damaged as a whole."""


class Dropped(TypedDict):
    """A sample that was replaced by a spare."""

    key: str
    reason: str
    position: int
    """The global position of the batch row that missed it."""


class Row(TypedDict):
    """One clip and the images joined to it. F = num_frames, N = num_images."""

    pixels: torch.Tensor
    """uint8 (F + N, H, W, 3), RGB; the images come last."""
    low_res: NotRequired[torch.Tensor]
    """uint8 (F, H / scale, W / scale, 3): the clip degraded, if the loader was given how."""
    captions: list[str]
    """1 + N: the clip's, then each image's."""
    keys: list[str]
    """1 + N."""
    position: int
    dropped: list[Dropped]


class Batch(TypedDict):
    """The rows of one micro-batch. B = train_batch_size, F = num_frames, N = num_images."""

    pixels: torch.Tensor
    """uint8 (B, F + N, H, W, 3), RGB; the images come last."""
    low_res: NotRequired[torch.Tensor]
    """uint8 (B, F, H / scale, W / scale, 3): the clips degraded, if the loader was given how."""
    captions: list[list[str]]
    """B lists of 1 + N: the clip's caption, then each image's."""
    positions: torch.Tensor
    """int64 (B,), the global position of each row."""
    keys: list[list[str]]
    """B lists of 1 + N."""
    dropped: list[Dropped]


class ClipDataset(Dataset):
    """Maps a global position to its Row. `centred` cuts the middle of every frame instead of a random place.

    A share data.moving_images of the rows shows an image under a wandering camera for a clip. With `degradation`, rows
    hold the clip's low resolution too. A DataError is returned, not raised: torch would bury its message in a worker's
    traceback.
    """

    def __init__(
        self,
        index: Index,
        data: DataConfig,
        seed: int,
        *,
        centred: bool = False,
        degradation: DegradationConfig | None = None,
    ) -> None:
        self._index, self._data, self._seed, self._centred = index, data, seed, centred
        self._degradation = degradation

    def __getitem__(self, position: int) -> Row | DataError:
        dropped: list[Dropped] = []
        try:
            places = image_positions(position, self._data.num_images)
            picked = [self._pick(*self._clip_source(position), position, dropped)]
            picked += [self._pick(self._index.images, "images", p, self._image, position, dropped) for p in places]
        except DataError as error:
            return error
        row = Row(
            pixels=torch.from_numpy(np.concatenate([pixels for _, pixels in picked])),
            captions=[sample.caption for sample, _ in picked],
            keys=[sample.key for sample, _ in picked],
            position=position,
            dropped=dropped,
        )
        if self._degradation:
            generator = numpy_generator(self._seed, "degradation", position)
            row["low_res"] = torch.from_numpy(degrade(picked[0][1], self._degradation, generator))
        return row

    def _clip_source(self, position: int) -> tuple[Sequence[Sample], str, int, Callable[[Sample, int], np.ndarray]]:
        """What `_pick` needs to find the clip of a row: a video, or an image that is to move."""
        if uniform(self._seed, "moving image", position) < self._data.moving_images:
            return self._index.images, "moving images", position, self._moving_image
        return self._index.videos, "videos", position, self._clip

    def _pick(
        self,
        samples: Sequence[Sample],
        purpose: str,
        place: int,
        load: Callable[[Sample, int], np.ndarray],
        position: int,
        dropped: list[Dropped],
    ) -> tuple[Sample, np.ndarray]:
        """The sample at `place` of its order, or the first spare that can be read."""
        n = len(samples)
        failures: list[Dropped] = []
        for attempt in range(1 + MAX_SPARES):
            if attempt:
                sample = samples[spare_at(place, attempt, n, self._seed, purpose)]
            else:
                sample = samples[sample_at(place, n, self._seed, purpose)]
            try:
                pixels = load(sample, place)
            except DataError as error:
                failures.append({"key": sample.key, "reason": str(error), "position": position})
            else:
                dropped += failures
                return sample, pixels
        raise DataError(
            f"position {position}: {len(failures)} samples in a row cannot be read, the last being "
            f"{failures[-1]['key']}: {failures[-1]['reason']}. Check the folders of data.train, or pack them again"
        )

    def _clip(self, sample: Sample, place: int) -> np.ndarray:
        """uint8 (F, H, W, 3)."""
        data = read_member(sample)
        times = indexed_times(data, sample.frames, sample.fps, sample.vfr)
        u = uniform(self._seed, "clip", place)
        want = self._data
        indices = clip_indices(times, want.num_frames, fps=want.fps, frame_stride=want.frame_stride, u=u)
        return self._fit(read_frames(data, indices), "crop", place)

    def _image(self, sample: Sample, place: int) -> np.ndarray:
        """uint8 (1, H, W, 3)."""
        return self._fit([decode_image(read_member(sample))], "image crop", place)

    def _moving_image(self, sample: Sample, place: int) -> np.ndarray:
        """uint8 (F, H, W, 3)."""
        want, image = self._data, decode_image(read_member(sample))
        source_height, source_width = image.shape[:2]
        scale = cut_scale(source_height, source_width, want.height, want.width, want.crop)
        room = scale * source_width - want.width, scale * source_height - want.height
        path = camera_path(want.num_frames, want.camera_speed, room, numpy_generator(self._seed, "camera", place))
        return moving_clip(image, path, want.height, want.width, scale)

    def _fit(self, frames: Any, purpose: str, place: int) -> np.ndarray:
        u, v = (0.5 if self._centred else uniform(self._seed, purpose, place, axis) for axis in range(2))
        return fit(frames, self._data.height, self._data.width, u, v, self._data.crop)


def build_loader(
    data: DataConfig,
    paths: tuple[str, ...],
    *,
    seed: int,
    train_batch_size: int,
    gradient_accumulation_steps: int,
    rank: int,
    world_size: int,
    start_step: int = 0,
    degradation: DegradationConfig | None = None,
) -> Iterator[Batch]:
    """An endless iterator over this rank's micro-batches, in step order from `start_step` on.

    Each step gives `gradient_accumulation_steps` of them, together the rank's slice of the step's positions. With
    `degradation`, they hold `low_res`. Decoding runs in `data.num_workers` processes. Raises DataError if the dataset
    cannot serve the configuration.
    """
    index = _checked_index(data, paths)
    batches = _Positions(train_batch_size, gradient_accumulation_steps, rank, world_size, start_step)
    loader = DataLoader(
        ClipDataset(index, data, seed, degradation=degradation),
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=data.num_workers,
        # Forked from a small server: a fork of the trainer would copy the locks of its threads (gloo, CUDA, FFmpeg).
        multiprocessing_context=_forkserver() if data.num_workers else None,
        prefetch_factor=2 if data.num_workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    with _workers_without_main():
        return map(_raise_error, iter(loader))


def fixed_batches(
    data: DataConfig,
    paths: tuple[str, ...],
    *,
    seed: int,
    train_batch_size: int,
    num_batches: int,
    rank: int,
    world_size: int,
    degradation: DegradationConfig | None = None,
) -> list[Batch]:
    """This rank's part of the first num_batches * train_batch_size * world_size positions, with centred crops.

    The same on every call: for validation.
    """
    dataset = ClipDataset(_checked_index(data, paths), data, seed, centred=True, degradation=degradation)
    step = next(iter(_Positions(train_batch_size * num_batches, 1, rank, world_size, 0)))
    groups = [step[i : i + train_batch_size] for i in range(0, len(step), train_batch_size)]
    return [_raise_error(_collate([dataset[p] for p in group])) for group in groups]


class _Positions:
    """The positions of each micro-batch of one rank, without end."""

    def __init__(self, batch_size: int, accumulation: int, rank: int, world_size: int, start_step: int) -> None:
        self._batch_size, self._accumulation = batch_size, accumulation
        self._rank, self._world_size, self._start_step = rank, world_size, start_step

    def __iter__(self) -> Iterator[list[int]]:
        step = self._start_step
        while True:
            global_batch = self._batch_size * self._accumulation * self._world_size
            mine = positions(step, global_batch, self._rank, self._world_size)
            for first in range(0, len(mine), self._batch_size):
                yield list(mine[first : first + self._batch_size])
            step += 1


def _checked_index(data: DataConfig, paths: tuple[str, ...]) -> Index:
    """The index of `paths`, or a DataError if it cannot give the clips and images that the configuration wants."""
    where = ", ".join(paths) or "data.train"
    index = _large_enough(load_index(paths), data.min_size, where)
    size = f" of at least data.min_size {data.min_size} pixels" if data.min_size else ""
    needs_videos = data.moving_images < 1
    if needs_videos and not index.videos:
        share = "" if data.moving_images == 0 else f" (data.moving_images is {data.moving_images:g}; 1 needs none)"
        raise DataError(
            f"{where}: no videos among {len(index)} samples{size}; every batch row starts with a clip{share}"
        )
    for key in ("num_images", "moving_images"):
        if getattr(data, key) and not index.images:
            raise DataError(
                f"{where}: no images{size}, but data.{key} is {getattr(data, key):g}: set data.{key}=0 or add images"
            )
    wanted = (data.num_frames, data.fps, data.frame_stride)
    short = [s.key for s in index.videos if needs_videos and not s.vfr and not fits(s.frames, s.fps, *wanted)]
    if short:
        rate = f"{data.fps:g} fps" if data.fps else f"frame stride {data.frame_stride}"
        flag = f"--fps {data.fps:g}" if data.fps else f"--frame-stride {data.frame_stride}"
        raise DataError(
            f"{where}: {len(short)} of {len(index.videos)} videos hold no clip of {data.num_frames} frames at {rate} "
            f"(first: {short[0]}). Change data.num_frames, data.fps or data.frame_stride, or pack again with "
            f"`lavie data pack --num-frames {data.num_frames} {flag}`, which leaves them out"
        )
    log.info("data: %s: %d videos, %d images", where, len(index.videos), len(index.images))
    return index


def _large_enough(index: Index, min_size: int, where: str) -> Index:
    """The samples whose shorter side has at least `min_size` pixels. Raises DataError if there is none."""
    small = [s for s in index if min(s.width, s.height) < min_size]
    if not small:
        return index
    first = f"{small[0].key}, {small[0].width} x {small[0].height}"
    left_out = f"{where}: {len(small)} of {len(index)} samples are left out, whose shorter side is below data.min_size"
    if len(small) == len(index):
        raise DataError(f"{left_out} {min_size} (first: {first}): none is left. Lower data.min_size or add larger ones")
    log.info("data: %s %d (first: %s)", left_out, min_size, first)
    return Index([s for s in index if min(s.width, s.height) >= min_size])


def _collate(results: list[Row | DataError]) -> Batch | DataError:
    rows: list[Row] = []
    for result in results:
        if isinstance(result, DataError):
            return result
        rows.append(result)
    batch = Batch(
        pixels=torch.stack([row["pixels"] for row in rows]),
        captions=[row["captions"] for row in rows],
        positions=torch.tensor([row["position"] for row in rows]),
        keys=[row["keys"] for row in rows],
        dropped=[entry for row in rows for entry in row["dropped"]],
    )
    if "low_res" in rows[0]:
        batch["low_res"] = torch.stack([row["low_res"] for row in rows])
    return batch


def _raise_error(batch: Batch | DataError) -> Batch:
    if isinstance(batch, DataError):
        raise batch
    return batch


@contextmanager
def _workers_without_main() -> Iterator[None]:
    """Workers started inside do not import the program's main module.

    multiprocessing would have each of them run it again: with DeepSpeed and all else that it imports, and, if it lacks
    an `if __name__ == "__main__"`, with workers of its own.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _forkserver() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch and av are imported once, not by every worker
    return context
