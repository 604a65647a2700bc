"""The three readers that turn one sample of a shard into frames or latents; a run chooses among them once.

    PixelReader          decodes the clip of a video, or an image, and cuts it to the size of the batch
    CacheReader          finds in a cache what the frozen encoders made of the sample
    MovingImageReader    decodes an image and shows it under a moving camera, as a clip

What a reader returns depends on the sample, its position, the number of its cut, the configuration and the seed only.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch

from ...config.data import DataConfig
from ...seeds import key64, numpy_generator, uniform
from ..cache.cache import Cache
from ..decoders.clip import DecodedClip, EncodedClip
from ..decoders.dali_rules import Device, clip_for_dali
from ..media.camera import camera_path, moving_clip
from ..media.clips import clip_indices, cut_scale, fit
from ..media.decode import indexed_times, read_frames
from ..media.image import decode_image
from ..media.one_pass import scaled_pixels
from ..media.shown import shown_pixels
from ..shards.index_file import Sample
from ..shards.member import read_member

SAMPLED = 16
"""With data.verify "sampled", the hash is compared at one position in 16."""
CENTRE = 0.5, 0.5
"""The place of a cut in the middle of the frame, as (across, down) in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Content:
    """What one sample gives to a row."""

    tensors: dict[str, torch.Tensor]
    """The sample's part of the row's tensors, by the name that they have in `Row`.

    From pixels: `pixels` uint8 (F, H, W, 3), with F = 1 for an image and F = 0 where `clip` is an EncodedClip.
    From a cache: `mean` and (or not) `std` (F, C, h, w), `text` (1, L, D).
    """
    clip: EncodedClip | DecodedClip | None = None
    """The clip that DALI is to decode, or why it is not to. None in a run without DALI, and for an image."""


class SampleReader(Protocol):
    """Turns a sample into what a row shows of it."""

    def read(self, sample: Sample, position: int, cut: int | None) -> Content:
        """Return the content of a sample.

        Args:
            sample: a video or an image, as the reader says.
            position: where in its order the run takes the sample; what is drawn at random is drawn for it.
            cut: which of the data.cuts fixed cuts of the sample to show, from 0; None to draw a cut at the position.

        Raises:
            DataError: if the sample cannot be read.
        """


class PixelReader:
    """Decodes the clip of a video, or an image, and cuts it to the size of the batch.

    Args:
        data: the configuration, of one size of clips.
        seed: the run's seed.
        centred: cut the middle of every frame instead of a random place.
        dali: the device on which DALI decodes the clips that it serves; None if PyAV decodes all.
    """

    def __init__(self, data: DataConfig, seed: int, *, centred: bool = False, dali: Device | None = None) -> None:
        self._data, self._seed, self._centred, self._dali = data, seed, centred, dali

    def read(self, sample: Sample, position: int, cut: int | None) -> Content:
        """See SampleReader; takes videos and images."""
        if sample.kind == "video":
            return self._clip(sample, position, cut)
        image = decode_image(_media(sample, self._data, self._seed, "image", position))
        return Content({"pixels": self._fit([image], self._place(sample, "image crop", position, cut))})

    def _clip(self, sample: Sample, position: int, cut: int | None) -> Content:
        """Return the frames of a video's clip; or, with DALI, the file in their place if DALI serves it."""
        want = self._data

        # The frames are chosen by their times, and the cut before any pixel exists: any decoder can take it from here.
        data = _media(sample, want, self._seed, "clip", position)
        times = indexed_times(data, sample.frames, sample.fps, sample.vfr)
        start = self._draw(sample, "clip", position, cut)
        indices = clip_indices(times, want.num_frames, fps=want.fps, frame_stride=want.frame_stride, u=start)
        place = self._place(sample, "crop", position, cut)

        # A clip that DALI must not have is decoded here, and the row says why.
        refused: DecodedClip | None = None
        if self._dali:
            served = clip_for_dali(sample, data, indices, *place, self._dali)
            if isinstance(served, EncodedClip):
                return Content({"pixels": torch.empty(0, want.height, want.width, 3, dtype=torch.uint8)}, served)
            refused = DecodedClip(sample.key, served)
        convert = shown_pixels
        if want.resampler == "swscale-1":
            convert = partial(scaled_pixels, height=want.height, width=want.width, crop=want.crop)
        return Content(
            {"pixels": self._fit(read_frames(data, indices, sample.frames, convert=convert), place)}, refused
        )

    def _draw(self, sample: Sample, purpose: str, position: int, cut: int | None, *axis: int) -> float:
        """Draw a number in [0, 1): at the position, or for a fixed cut, which is the same in runs of any seed."""
        if cut is None:
            return uniform(self._seed, purpose, position, *axis)
        return uniform(0, f"{purpose} of {sample.sha256}", cut, *axis)

    def _place(self, sample: Sample, purpose: str, position: int, cut: int | None) -> tuple[float, float]:
        """Return where a frame is cut, as `clips.fit` takes it: (across, down) in [0, 1]."""
        if self._centred:
            return CENTRE
        return self._draw(sample, purpose, position, cut, 0), self._draw(sample, purpose, position, cut, 1)

    def _fit(self, frames: Iterable[np.ndarray], place: tuple[float, float]) -> torch.Tensor:
        """Scale and cut frames uint8 (H, W, 3) to the size of the batch: uint8 (F, height, width, 3)."""
        return torch.from_numpy(fit(frames, self._data.height, self._data.width, *place, self._data.crop))


class CacheReader:
    """Finds in a cache what the frozen encoders made of a sample's cut.

    Args:
        cache: the entries of the size of `data`.
        data: the configuration, with data.cuts set.
        seed: the run's seed.
    """

    def __init__(self, cache: Cache, data: DataConfig, seed: int) -> None:
        self._cache, self._data, self._seed = cache, data, seed

    def read(self, sample: Sample, position: int, cut: int | None) -> Content:
        """See SampleReader; takes videos and images, and always a fixed cut."""
        assert cut is not None
        verify = _is_verified(self._data, self._seed, sample.kind, position)
        return Content(self._cache.read(sample, cut, verify=verify))


class MovingImageReader:
    """Decodes an image and shows it under a moving camera, as a clip.

    Args:
        data: the configuration, of one size of clips.
        seed: the run's seed.
        dali: whether DALI decodes clips in this run, so that a row says why not this one.
    """

    def __init__(self, data: DataConfig, seed: int, *, dali: bool = False) -> None:
        self._data, self._seed, self._dali = data, seed, dali

    def read(self, sample: Sample, position: int, cut: int | None) -> Content:
        """See SampleReader; takes images. The camera's path is drawn at the position, whatever the cut."""
        want, image = self._data, decode_image(_media(sample, self._data, self._seed, "clip", position))
        height, width = image.shape[:2]
        scale = cut_scale(height, width, want.height, want.width, want.crop)
        room = scale * width - want.width, scale * height - want.height
        path = camera_path(want.num_frames, want.camera_speed, room, numpy_generator(self._seed, "camera", position))
        frames = moving_clip(image, path, want.height, want.width, scale)
        clip = DecodedClip(sample.key, "it is an image under a moving camera") if self._dali else None
        return Content({"pixels": torch.from_numpy(frames)}, clip)


def _media(sample: Sample, data: DataConfig, seed: int, purpose: str, position: int) -> bytes:
    """Read the media file of a sample. Raises DataError if that fails, or if its hash is compared and differs."""
    return read_member(sample, verify=_is_verified(data, seed, purpose, position), timeout=data.timeout)


def _is_verified(data: DataConfig, seed: int, purpose: str, position: int) -> bool:
    """Return whether data.verify wants the hash of the sample at a position compared."""
    if data.verify == "sampled":
        return key64(seed, f"verify {purpose}", position) % SAMPLED == 0
    return data.verify == "always"
