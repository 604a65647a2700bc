"""From text to video: samples clips from a base network; a network that takes frames starts from frames, too."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..config.stages import condition_channels
from ..diffusion.given_frames import frame_condition, given_mask
from ..errors import ConfigError
from .chunking import Axes, Axis, whole
from .latents import check_size, decode, empty_frame, encode
from .long_noise import repeating_noise
from .sampler import ClipSize, Condition, Denoising, Sampler, StageSizes, require_whole_if_cached
from .segments import Segment, cut_segments
from .settings import BaseSettings
from .start import Draft, Start

Known = Mapping[int, Tensor]
"""Latents (B, C, h, w) of given frames, by their places in a clip or a segment."""


class TextToVideo(Sampler):
    """Samples clips, or images, from a base network and its frozen encoders."""

    size_flags: ClassVar[str] = "--set base.height=..., base.width=..., base.window=... or base.overlap=..."

    @property
    def takes_frames(self) -> bool:
        """Whether the network reads given frames beside the noisy latents (config: `condition: frames`)."""
        config = getattr(self.network, "config", None)
        channels = self.autoencoder.channels
        extra = getattr(config, "in_channels", channels) - channels
        return extra == condition_channels("frames", channels)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], *, start: Start | None = None, **options: Any) -> np.ndarray:
        """Return a clip for each prompt: uint8 (B, F, H, W, 3).

        Args:
            prompts: at least one.
            start: what all the clips start from, besides their prompts.
            options: fields of `BaseSettings` (num_frames, height, width, num_inference_steps ...), by default the
                released ones, and of `Denoising` (indices, sequential_guidance, progress, watch). One frame is an
                image, which passes by the temporal layers.

        Raises:
            ConfigError: a size, a start or a number of steps that cannot be sampled.
        """
        call = Denoising.of(BaseSettings(), options)
        settings, stride = call.settings, self.autoencoder.stride
        start = start or Start()
        self.require(start, settings)

        shape = self.autoencoder.channels, settings.num_frames, settings.height // stride, settings.width // stride
        known = self._known(start, settings)
        if settings.method == "recursion" and settings.num_frames > settings.window:
            latents = self._recursion(shape, prompts, call, known, start.segments)
        else:
            texts = [start.segments[0]] * len(prompts) if start.segments else prompts
            latents = self._at_once(shape, texts, call, known, start.draft)
        return decode(self.autoencoder, latents, settings.decode_tile)

    def require(self, start: Start, settings: BaseSettings) -> None:
        """Check, without computing anything, that a clip can be made from a start with some settings.

        Raises:
            ConfigError: says what cannot go together, and which setting to change.
        """
        self.require_steps(settings)
        if settings.num_frames < 1:
            raise ConfigError(f"num_frames: got {settings.num_frames}, wanted at least 1 (1 is an image)")
        check_size(settings.height, settings.width, self.autoencoder.stride)
        size = settings.height, settings.width
        segments = self._segments(settings)
        axes = self._axes((settings.num_frames, 1, 1), settings)
        if settings.method == "windows":
            require_whole_if_cached(settings.cache_interval, axes)
        if not self.takes_frames and (start.given is not None or len(segments) > 1):
            what = "given frames" if start.given is not None else "method recursion, which gives frames to each segment"
            raise ConfigError(
                f"{what}: the base network takes none; wanted one that was trained with condition: frames"
                + (
                    ", or --strength with --image or --from-video, which any network can draw over"
                    if start.given is not None
                    else ", or --method windows, which needs none"
                )
            )
        if len(start.segments) > len(segments):
            raise ConfigError(
                f"got prompts of {len(start.segments)} segments, and the clip of {settings.num_frames} frames has "
                f"{len(segments)} by method {settings.method}: wanted fewer prompts, --method recursion, or a longer "
                "clip (--seconds)"
            )
        if start.given is not None:
            start.given.at(settings.num_frames)
            _require_size(start.given.frames, size)
        if start.draft is not None:
            if len(segments) > 1 or start.given is not None:
                raise ConfigError(
                    "strength: a clip that is drawn over has no given frames and is made at once or in windows; wanted "
                    "--method windows, and --image or --from-video alone"
                )
            _require_size(start.draft.frames, size)
            if len(start.draft.frames) != settings.num_frames:
                raise ConfigError(
                    f"got a draft of {len(start.draft.frames)} frames for a clip of {settings.num_frames}"
                )

    def sizes(self, given: ClipSize, settings: BaseSettings) -> StageSizes:
        """Return the sizes of a clip, `given`, that is sampled by the method of the settings; see `Sampler.sizes`."""
        frames, height, width = given
        stride = self.autoencoder.stride
        check_size(height, width, stride)
        latents = frames, height // stride, width // stride
        return StageSizes(given, latents, self._axes(latents, settings))

    def _axes(self, shape: Sequence[int], settings: BaseSettings) -> Axes:
        """Return how latents (F, h, w) are cut: along time by the window, unless they are made at once."""
        if settings.method == "whole":
            return whole(shape)
        return [Axis(shape[0], settings.window, settings.overlap, name="base.window"), *whole(shape[1:])]

    def _segments(self, settings: BaseSettings) -> list[Segment]:
        """Return the segments in which a clip is made: one, unless the method is recursion."""
        if settings.method == "recursion":
            return cut_segments(settings.num_frames, settings.window, settings.overlap)
        return [Segment(0, 0, settings.num_frames)]

    def _known(self, start: Start, settings: BaseSettings) -> dict[int, Tensor]:
        """Return the latents (1, C, h, w) of the start's given frames, by their places in the clip."""
        if start.given is None:
            return {}
        frames = start.given.at(settings.num_frames)
        latents = encode(self.autoencoder, np.stack([*frames.values()])[None], self.device, settings.decode_tile)
        return dict(zip(frames, latents.unbind(2), strict=True))

    def _condition(self, shape: Sequence[int], count: int, known: Known, tile: int) -> Condition | None:
        """Return what the network reads of the given frames of clips; None for a network that takes none.

        Args:
            shape: (C, F, h, w), of a clip's latents.
            count: of clips.
            known: the given frames.
            tile: see `encode`.
        """
        if not self.takes_frames:
            return None
        stride = self.autoencoder.stride
        empty = empty_frame(self.autoencoder, shape[2] * stride, shape[3] * stride, self.device, tile)
        latents = empty[:, None].repeat(count, 1, shape[1], 1, 1)
        for place, given in known.items():
            latents[:, :, place] = given.to(latents)
        mask = given_mask([list(known)] * count, shape[1], self.device)
        return Condition(frame_condition(latents, mask, empty))

    def _at_once(
        self, shape: Sequence[int], prompts: Sequence[str], call: Denoising[Any], known: Known, draft: Draft | None
    ) -> Tensor:
        """Return the latents of clips that are denoised as one, whole or in windows that are blended at every step."""
        settings: BaseSettings = call.settings
        begun = None
        if draft is not None:
            clip = encode(self.autoencoder, draft.frames[None], self.device, settings.decode_tile)
            begun = clip.expand(len(prompts), *clip.shape[1:]), draft.strength
        return self._denoise(
            shape,
            prompts,
            call,
            purpose="sample",
            axes=self._axes(shape[1:], settings),
            condition=self._condition(shape, len(prompts), known, settings.decode_tile),
            num_images=int(shape[1] == 1),
            draw=partial(repeating_noise, window=settings.window) if settings.method == "windows" else None,
            begun=begun,
        )

    def _recursion(
        self,
        shape: Sequence[int],
        prompts: Sequence[str],
        call: Denoising[Any],
        known: Known,
        texts: Sequence[str],
    ) -> Tensor:
        """Return the latents of clips that are made segment by segment (paper, section 5.6).

        1. The first segment is what the network draws by itself.
        2. Each further one is given the last `overlap` frames so far, as latents, and has noise of its own: the same
           noise again makes clips stand still.
        3. Of its frames, those behind the given ones are added to the clip.
        """
        settings: BaseSettings = call.settings
        segments = self._segments(settings)
        part = shape[0], settings.window, *shape[2:]
        clip = torch.empty(len(prompts), shape[0], 0, *shape[2:], device=self.device)
        for number, segment in enumerate(segments):

            def advance(step: int, steps: int, number: int = number) -> None:
                """Tell the progress over all segments."""
                if call.progress:
                    call.progress(number * steps + step, len(segments) * steps)

            # Frames that the caller gives, in this segment's numbers, overrule those of the segment before.
            given = dict(enumerate(clip[:, :, segment.begin : segment.new].unbind(2)))
            for place, latents in known.items():
                if segment.begin <= place < segment.stop:
                    given[place - segment.begin] = latents
            text = [texts[min(number, len(texts) - 1)]] * len(prompts) if texts else prompts
            latents = self._denoise(
                part,
                text,
                replace(call, progress=advance),
                purpose=f"sample of segment {number}" if number else "sample",
                condition=self._condition(part, len(prompts), given, settings.decode_tile),
            )
            clip = torch.cat([clip, latents[:, :, segment.new - segment.begin : segment.stop - segment.begin]], 2)
        return clip


def _require_size(frames: np.ndarray, size: tuple[int, int]) -> None:
    """Raise ConfigError unless frames are uint8 (F, H, W, 3) of a size."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*size, 3):
        raise ConfigError(f"frames: got {frames.dtype} {frames.shape}, wanted uint8 (F, {size[0]}, {size[1]}, 3)")
