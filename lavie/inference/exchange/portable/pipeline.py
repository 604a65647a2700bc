"""The pipeline of an export's `lavie_pipeline.py`, which draws what this project's samplers draw.

It is not run here: `bundle` joins it with the functions that it imports from the sources.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ....diffusion.condition import spread_key_frames
from ....diffusion.guidance import guided, is_guided
from ....models import text_encoder as text_encoders
from ....models.autoencoder import PatchAutoencoder
from ....models.prompt_syntax import Span, parse_weights
from ....models.text_encoder import Token
from ....pixels import to_float, to_uint8
from ....seeds import torch_generator
from ...chunking import Axis, Region, scaled, whole, windowed, within
from ...latents import FRAMES_AT_ONCE, tiles


class ConfigError(ValueError):
    """A setting or a prompt that cannot be used."""


def carry(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device."""
    return tensor.to(device)


class HashTextEncoder(text_encoders.HashTextEncoder):
    """A text encoder without weights: each word is a fixed random vector plus a sinusoid of its place."""

    def encode_tokens(self, tokens: Sequence[Token], clip_skip: int = 1) -> Tensor:
        """Return the features (max_length, channels) of at most `room` words."""
        features = torch.zeros_like(self.place)
        vectors = torch.stack([self._vector(str(token)) for token in ("<start>", *tokens)])
        features[: len(vectors)] = vectors + 0.5 * self.place[: len(vectors)]
        return features


class ClipTextEncoder(text_encoders.ClipTextEncoder):
    """CLIP's text features as Stable Diffusion 1.4 has them: the last hidden state, 77 tokens, padding not masked."""

    @torch.no_grad()
    def encode_tokens(self, tokens: Sequence[Token], clip_skip: int = 1) -> Tensor:
        """Return the features (max_length, channels) float32 of at most `room` tokens between their start and end."""
        start, end, fill = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        numbers = [start, *tokens, end]
        numbers += [fill] * (self.max_length - len(numbers))
        return self.model(torch.tensor([numbers], device=self.model.device)).last_hidden_state[0].float()


def encode_prompts(encoder: ClipTextEncoder | HashTextEncoder, prompts: Sequence[str]) -> Tensor:
    """Return the features (n, L, D) of prompts, whose brackets weigh words; what is too long is cut."""
    rows = []
    for prompt in prompts:
        spans = parse_weights(prompt)
        if spans == [Span(prompt)]:
            rows.append(encoder([prompt])[0])
            continue
        weighted = [(token, weight) for text, weight in spans for token in encoder.split(text)][: encoder.room]
        features = encoder.encode_tokens([token for token, _ in weighted])
        weights = [weight for _, weight in weighted]
        rows.append(features if all(weight == 1 for weight in weights) else encoder.emphasise(features, weights))
    return torch.stack(rows)


class Start(NamedTuple):
    """What a clip is denoised from."""

    shape: Sequence[int]
    """(C, F, h, w), of its latents."""
    axes: Sequence[Axis]
    """How frames, rows and columns are cut into windows."""
    noise: str
    """The name of the noise, which is another for each stage."""
    condition: Tensor | None = None
    """(B, D, F, h, w), what the network reads beside the noisy latents."""
    level: Tensor | None = None
    """int64 (B,), the level of the noise that super-resolution has laid over the condition."""


class LaVieOutput(BaseOutput):
    """What `LaViePipeline` returns."""

    frames: Any
    """Clips, of the kind that `output_type` names."""


class LaViePipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """A stage of LaVie: from a prompt to a clip, from key frames to more frames, or from frames to larger ones.

    LoRAs that diffusers loads into Stable Diffusion 1.4 load here as well, for the first two stages.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["vae", "text_encoder", "tokenizer"]  # noqa: RUF012

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        vae: AutoencoderKL | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        condition: str = "none",
        settings: dict[str, Any] | None = None,
        text_length: int = 77,
        scaling_factor: float | None = None,
        patches: dict[str, Any] | None = None,
        keyframe_interval: int = 4,
    ):
        """Join the parts of a stage.

        Args:
            unet, scheduler, vae, text_encoder, tokenizer: the parts; a stage of a small run has no last three.
            condition: what clips are made from beside the prompt: none, frames (none is given here), key_frames or
                low_resolution.
            settings: the defaults of `__call__`, and how clips are cut into windows.
            text_length: tokens that the text encoder reads.
            scaling_factor: what latents are multiplied by; default: that of the vae.
            patches: arguments of `PatchAutoencoder`, which takes the place of the vae.
            keyframe_interval: frames from one key frame to the next.
        """
        super().__init__()
        parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
        self.register_modules(unet=unet, scheduler=scheduler, **parts)
        self.register_to_config(
            condition=condition,
            settings=settings or {},
            text_length=text_length,
            scaling_factor=scaling_factor,
            patches=patches,
            keyframe_interval=keyframe_interval,
        )
        self._patches = PatchAutoencoder(**patches) if patches else None
        self._scaling = scaling_factor or (vae.config.scaling_factor if vae is not None else 1.0)
        stride = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 1
        self.stride = self._patches.stride if self._patches else stride
        """Pixels per latent, along both axes."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        video: Any = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        noise_level: int | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        output_type: str = "pil",
        callback: Callable[[int, int], None] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Draw a clip for each prompt. What is not given is as in the training run.

        Args:
            prompt: one, or several; (word:1.3) and [word] weigh words.
            video: what the later stages start from: a clip for each prompt, as lists of PIL pictures or uint8
                (B, F, H, W, 3); key frames may also be latents, float (B, C, K, h, w).
            num_inference_steps: denoising steps.
            guidance_scale: of classifier-free guidance; 1 switches it off.
            negative_prompt: what to steer away from.
            num_frames, height, width: of the clip, for the first stage; one frame is an image.
            noise_level: of the noise that super-resolution lays over the low resolution.
            seed, indices: prompt i's noise depends on (seed, indices[i]) alone; default 0, 1, 2 ...
            output_type: "pil": lists of pictures; "np": float32 (B, F, H, W, 3) in 0 .. 1, not rounded; "latent".
            callback: called after each step as callback(step, steps).
            return_dict: whether a `LaVieOutput` is returned, and not a tuple.

        Raises:
            ValueError: something is missing, or does not fit the stage.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        settings = dict(self.config.settings)
        given: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        given |= {"negative_prompt": negative_prompt, "noise_level": noise_level}
        given |= {"num_frames": num_frames, "height": height, "width": width}
        for name, value in given.items():
            if value is not None and name not in settings:
                raise ValueError(f"{name} is no setting of this stage; it has {', '.join(sorted(settings))}")
            settings |= {} if value is None else {name: value}
        numbers = range(len(prompts)) if indices is None else indices
        if not prompts or len(numbers) != len(prompts) or output_type not in ("pil", "np", "latent"):
            raise ValueError(f"got {len(prompts)} prompts, {len(numbers)} indices and output_type {output_type!r}")
        start = self._start(video, settings, seed, numbers)
        generators = [torch_generator(seed, start.noise, number) for number in numbers]
        latents = self._denoised(prompts, settings, start, generators, callback)
        frames = latents if output_type == "latent" else self._decoded(latents, settings["decode_tile"], output_type)
        return LaVieOutput(frames=frames) if return_dict else (frames,)

    def _start(self, video: Any, settings: dict[str, Any], seed: int, numbers: Sequence[int]) -> Start:
        """Return what clips are denoised from; `numbers`: of their noises."""
        kind, device, tile = self.config.condition, self._execution_device, settings["decode_tile"]
        channels, count = self.unet.config.out_channels, len(numbers)
        if kind in ("none", "frames"):
            if video is not None:
                raise ValueError("video: this stage draws from prompts alone; wanted none")
            return self._from_nothing(count, settings)
        if video is None or len(video) != count:
            raise ValueError(f"video: got {'none' if video is None else len(video)}, wanted a clip for each prompt")
        if kind == "key_frames":
            keys = video if isinstance(video, Tensor) and video.is_floating_point() else self._latents(video, tile)
            condition = spread_key_frames(keys.to(device).float(), self.config.keyframe_interval)
            shape: Sequence[int] = condition.shape[1:]
            return Start(shape, self._time_windows(shape[1:], settings), "interpolation", condition)

        # Super-resolution reads pixels under noise, whose level is a timestep of the x4 upscaler's schedule.
        pixels = to_float(_uint8(video).to(device)).transpose(1, 2)
        noises = [torch_generator(seed, "low-resolution noise", number) for number in numbers]
        noise = torch.stack([torch.randn(*pixels.shape[1:], generator=g) for g in noises]).to(pixels)
        level = torch.full((count,), settings["noise_level"], device=device)
        schedule = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="scaled_linear")
        condition = schedule.add_noise(pixels, noise, level)
        shape = channels, *pixels.shape[2:]
        return Start(shape, self._tiles(shape[1:], settings), "super-resolution", condition, level)

    def _from_nothing(self, count: int, settings: dict[str, Any]) -> Start:
        """Return what clips are denoised from that have a prompt alone."""
        size, device = (settings["height"], settings["width"]), self._execution_device
        if any(side < 1 or side % self.stride for side in size):
            raise ValueError(f"height x width: got {size[0]} x {size[1]}, wanted multiples of {self.stride}")
        shape = self.unet.config.out_channels, settings["num_frames"], *(side // self.stride for side in size)
        condition = None
        if self.config.condition == "frames":  # none is given: the mask says that all are to be made, and all are grey
            empty = self._encoded(torch.zeros(1, 3, *size, device=device), settings["decode_tile"])[:, :, None]
            made = torch.ones(count, 1, *shape[1:], device=device)
            condition = torch.cat([made, empty.expand(count, -1, shape[1], -1, -1)], 1)
        return Start(shape, whole(shape[1:]), "sample", condition)

    def _time_windows(self, shape: Sequence[int], settings: dict[str, Any]) -> list[Axis]:
        """Return the axes of latents (F, h, w), cut along time into windows that begin and end at key frames."""
        interval, overlap = self.config.keyframe_interval, settings["overlap"]
        size, shared = (settings["window"] - 1) * interval + 1, max(overlap - 1, 0) * interval + 1
        return [Axis(shape[0], size, shared, multiple=interval), *whole(shape[1:])]

    def _tiles(self, shape: Sequence[int], settings: dict[str, Any]) -> list[Axis]:
        """Return the axes of latents (F, h, w), cut into windows and into tiles that fit the network's levels."""
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        tile, overlap = settings["tile"], settings["tile_overlap"]
        space = [Axis(length, side, overlap, multiple) for length, side in zip(shape[1:], tile, strict=True)]
        return [Axis(shape[0], settings["window"], settings["overlap"]), *space]

    def _denoised(
        self,
        prompts: Sequence[str],
        settings: dict[str, Any],
        start: Start,
        generators: Sequence[torch.Generator],
        callback: Callable[[int, int], None] | None,
    ) -> Tensor:
        """Return latents float32 (B, C, F, h, w), made from noise that is drawn on the CPU, clip by clip."""
        shape, axes, _, condition, level = start
        device, dtype, scale = self._execution_device, self.unet.dtype, settings["guidance_scale"]
        branches = [[settings["negative_prompt"]] * len(prompts)] if is_guided(scale) else []
        texts = torch.cat([self._features(branch) for branch in [*branches, list(prompts)]])
        images = int(shape[1] == 1 and self.config.condition in ("none", "frames"))
        texts = texts.to(device, dtype)[:, None].expand(-1, 1 + images, -1, -1)

        def predict(x_t: Tensor, t: Tensor, region: Region) -> Tensor:
            """Return the guided output for a region of x_t, float32."""

            def repeated(x: Tensor) -> Tensor:
                """Return a tensor once for each branch of guidance, along its first axis."""
                return x.repeat(1 + len(branches), *(1,) * (x.dim() - 1))

            output = self.unet(
                repeated(within(x_t, region)).to(dtype),
                t.to(device).expand(len(texts)),
                texts,
                low_res=None if condition is None else repeated(within(condition, region)).to(dtype),
                noise_level=None if level is None else repeated(level),
                num_images=images,
            ).float()
            if not branches:
                return output
            unconditional, conditional = output.chunk(2)
            return guided(unconditional, conditional, scale)

        noise = torch.stack([torch.randn(*shape, generator=generator) for generator in generators]).to(device)
        scheduler = self.scheduler
        scheduler.set_timesteps(settings["num_inference_steps"])
        drawing = {"generator": list(generators)} if isinstance(scheduler, DDPMScheduler) else {}
        latents, steps = noise * scheduler.init_noise_sigma, len(scheduler.timesteps)
        with self.progress_bar(total=steps) as bar:
            for step, t in enumerate(scheduler.timesteps):
                x_t = scheduler.scale_model_input(latents, t)
                output = windowed(partial(predict, x_t, t.long()), axes, step=step)
                latents = scheduler.step(output, t, latents, **drawing).prev_sample
                bar.update()
                if callback:
                    callback(step + 1, steps)
        self.maybe_free_model_hooks()
        return latents

    def _features(self, prompts: Sequence[str]) -> Tensor:
        """Return the text features (n, L, D) of prompts, float32."""
        if self.text_encoder is None:
            encoder = HashTextEncoder(self.unet.config.cross_attention_dim, self.config.text_length)
            return encode_prompts(encoder, prompts).to(self._execution_device)
        return encode_prompts(ClipTextEncoder(self.text_encoder, self.tokenizer, self.config.text_length), prompts)

    def _latents(self, video: Any, tile: int) -> Tensor:
        """Return the means of the posteriors of frames, float32 (B, C, F, h, w)."""
        frames = _uint8(video)
        flat = frames.flatten(0, 1).split(FRAMES_AT_ONCE)
        latents = [self._encoded(to_float(chunk.to(self._execution_device)), tile) for chunk in flat]
        return torch.cat(latents).unflatten(0, frames.shape[:2]).transpose(1, 2)

    def _encoded(self, pixels: Tensor, tile: int) -> Tensor:
        """Return the means of the posteriors of pixels (n, 3, H, W), encoded in tiles: float32 (n, C, h, w)."""

        def encoded(region: Region) -> Tensor:
            """Return the latents of a region, which is given in latents."""
            part = within(pixels, scaled(region, (self.stride, self.stride)))
            if self._patches is not None:
                return self._patches.encode(part)
            return self.vae.encode(part.to(self.vae.dtype)).latent_dist.mean.float() * self._scaling

        return windowed(encoded, tiles(pixels.shape[2] // self.stride, pixels.shape[3] // self.stride, tile))

    def _decoded(self, latents: Tensor, tile: int, output_type: str) -> Any:
        """Return the frames of latents (B, C, F, h, w), decoded a few at a time and in tiles."""
        if self.vae is not None and self.vae.dtype == torch.float16 and self.config.condition == "low_resolution":
            self.vae.to(torch.float32)  # the upscaler's autoencoder overflows in 16 bits
        axes, clips = tiles(latents.shape[3], latents.shape[4], tile), []

        def decoded(chunk: Tensor, region: Region) -> Tensor:
            """Return the pixels of a region, which is given in latents."""
            part = within(chunk, region)
            if self._patches is not None:
                return self._patches.decode(part)
            return self.vae.decode((part / self._scaling).to(self.vae.dtype)).sample.float()

        for clip in latents.transpose(1, 2):
            frames: list[Any] = []
            for chunk in clip.split(FRAMES_AT_ONCE):
                pixels = windowed(partial(decoded, chunk), axes, scales=(self.stride, self.stride))
                if output_type == "np":
                    frames += list(((pixels + 1) / 2).clamp(0, 1).movedim(1, -1).cpu().numpy())
                else:
                    frames += [Image.fromarray(frame) for frame in to_uint8(pixels).cpu().numpy()]
            clips.append(frames)
        return np.stack([np.stack(frames) for frames in clips]) if output_type == "np" else clips


def _uint8(video: Any) -> Tensor:
    """Return clips, given as lists of PIL pictures or as an array, as uint8 (B, F, H, W, 3)."""
    if not isinstance(video, np.ndarray | Tensor):
        video = np.stack([np.stack([np.asarray(frame) for frame in clip]) for clip in video])
    frames = torch.as_tensor(video)
    if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise ValueError(f"video: got {frames.dtype} {tuple(frames.shape)}, wanted uint8 (B, F, H, W, 3)")
    return frames
