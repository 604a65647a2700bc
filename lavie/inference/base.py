"""Sampling the base network into a folder: prompts in, numbered clips and one contact sheet out."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.train import TrainConfig
from ..distributed import gather_objects, is_main, rank, world_size
from ..errors import ConfigError
from .load import load_stage
from .sampler import TextToVideo
from .video_io import write_sample, write_sheet


@dataclass(frozen=True)
class SampleSettings:
    """How clips are sampled. The defaults are LaVie's base network at full size."""

    num_frames: int = 16
    """1 asks for images."""
    height: int = 320
    width: int = 512
    fps: float = 8
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    seed: int = 0
    scheduler: str = "ddim"
    negative_prompt: str = ""
    num_per_prompt: int = 1

    @classmethod
    def of(cls, config: TrainConfig, **changes: Any) -> "SampleSettings":
        """What a run trains for: its clip's size and rate, its `sampling` section and its seed. `changes` that are not
        None take precedence."""
        data, sampling = config.data, config.sampling
        settings = dict(
            num_frames=data.num_frames,
            height=data.height,
            width=data.width,
            fps=data.fps or cls.fps,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            seed=config.seed,
            scheduler=sampling.scheduler,
            negative_prompt=sampling.negative_prompt,
        )
        return cls(**settings | {name: value for name, value in changes.items() if value is not None})


def load_pipeline(checkpoint: str | Path) -> tuple[TextToVideo, TrainConfig]:
    """The network of a checkpoint-<step> folder, or of the newest one in a run's folder, with the run's encoders.

    Runs on a GPU where there is one.

    Raises CheckpointError if there is no checkpoint, ConfigError if it is of another stage than base.
    """
    pipeline, config = load_stage(checkpoint)
    if not isinstance(pipeline, TextToVideo):
        raise ConfigError(
            f"--checkpoint {checkpoint} is of stage {config.stage}, which draws nothing from a prompt alone: wanted a "
            "run of stage base, or `lavie generate` with a folder of all stages"
        )
    return pipeline, config


def generate(
    pipeline: TextToVideo,
    prompts: Sequence[str],
    out: str | Path,
    settings: SampleSettings,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Sample every prompt, one clip at a time, into `out`. With several ranks, all call it and share the prompts.

    Writes 00000.mp4, .gif, .sheet.png, .json and so on (00000.png, .json for images), prompt by prompt, and sheet.png
    of all. A clip depends on the settings, its prompt and its number only.

    Args:
        out: created if missing.
        overwrite: whether samples that lie in `out` may be replaced.
        progress: called after every denoising step as progress(step, steps), over all clips.

    Returns: the clips (or pictures) in order, then the sheet; on rank 0, which writes them.

    Raises:
        ConfigError: no prompts, settings that cannot be sampled, or samples already in `out`.
    """
    out = Path(out)
    if not prompts or settings.num_per_prompt < 1:
        raise ConfigError(
            f"got {len(prompts)} prompts and num_per_prompt {settings.num_per_prompt}: wanted 1 of each, or more"
        )
    if not overwrite and any(out.glob("00000.*")):
        raise ConfigError(f"{out} holds samples already: give another --out folder, or --overwrite")
    if is_main():
        out.mkdir(parents=True, exist_ok=True)  # fails before hours of sampling, not after

    numbered = list(enumerate(prompt for prompt in prompts for _ in range(settings.num_per_prompt)))
    mine = numbered[rank() :: world_size()]
    clips: dict[int, np.ndarray] = {}
    for done, (index, prompt) in enumerate(mine):

        def advance(step: int, steps: int, done: int = done) -> None:
            if progress:
                progress(done * steps + step, len(mine) * steps)

        [clips[index]] = pipeline(
            [prompt],
            indices=[index],
            num_frames=settings.num_frames,
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            seed=settings.seed,
            scheduler=settings.scheduler,
            negative_prompt=settings.negative_prompt,
            progress=advance,
        )
    clips = {index: frames for share in gather_objects(clips) for index, frames in share.items()}
    if not is_main():
        return []
    paths: list[Path] = []
    for index, prompt in numbered:
        sidecar = {"prompt": prompt, "index": index} | asdict(settings)
        paths.append(write_sample(out, f"{index:05d}", clips[index], settings.fps, sidecar)[0])
    write_sheet(out / "sheet.png", [(prompt, clips[index]) for index, prompt in numbered])
    return [*paths, out / "sheet.png"]
