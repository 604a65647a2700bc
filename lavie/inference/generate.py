"""Sampling into a folder: prompts in, numbered clips and one contact sheet out."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config.train import TrainConfig
from ..distributed import gather_objects, is_main, rank, world_size
from ..errors import ConfigError
from ..files import replacing
from ..models.text_encoder import warn_of_unread
from ..run_folder import PROMPTS
from .cascade import Cascade, StageProgress
from .contact_sheet import beside
from .sampler import Progress
from .schedulers import require_sampling
from .settings import BaseSettings, arguments
from .text_to_video import TextToVideo
from .video_io import write_mp4, write_sample, write_sheet
from .work import Record, Work

SIDECAR = (
    "num_frames",
    "height",
    "width",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "scheduler",
    "negative_prompt",
)
"""The settings that the JSON file beside a sample names."""


def generate(
    sampler: Callable[..., np.ndarray],
    prompts: Sequence[str],
    out: str | Path,
    settings: BaseSettings,
    *,
    num_per_prompt: int = 1,
    overwrite: bool = False,
    tell_cut: bool = True,
    progress: Progress | None = None,
) -> list[Path]:
    """Sample every prompt from a base network, one clip at a time, into `out`.

    Writes 00000.mp4, .gif, .sheet.png, .json and so on (00000.png, .json for images), prompt by prompt, and sheet.png
    and prompts.jsonl of all. A clip depends on the settings, its prompt and its number only. With several ranks, all
    call this function and share the prompts.

    Args:
        sampler: a `TextToVideo`.
        prompts: drawn as they are, without the settings' suffix.
        out: created if missing.
        num_per_prompt: clips of each prompt.
        overwrite: whether samples that lie in `out` may be replaced.
        tell_cut: whether a warning names the words of prompts that the text encoder never reads.
        progress: called after every denoising step as progress(step, steps), over all clips.

    Returns:
        On rank 0, which writes them, the clips (or pictures) in order, then the sheet; on other ranks nothing.

    Raises:
        ConfigError: no prompts, settings that cannot be sampled, or samples already in `out`.
    """
    # What could stop the writing stops the call now, before hours of sampling.
    out = Path(out)
    if not prompts or num_per_prompt < 1:
        raise ConfigError(f"got {len(prompts)} prompts and num_per_prompt {num_per_prompt}: wanted 1 of each, or more")
    if not overwrite and any(out.glob("00000.*")):
        raise ConfigError(f"{out} holds samples already: give another --out folder, or --overwrite")
    if is_main():
        out.mkdir(parents=True, exist_ok=True)
    if is_main() and tell_cut:
        encoder = getattr(sampler, "text_encoder", None)
        warn_of_unread((encoder, prompt) for prompt in (*prompts, settings.negative_prompt))

    # Every rank samples each world_size-th clip.
    numbered = list(enumerate(prompt for prompt in prompts for _ in range(num_per_prompt)))
    share = numbered[rank() :: world_size()]
    clips: dict[int, np.ndarray] = {}
    for done, (index, prompt) in enumerate(share):

        def advance(step: int, steps: int, done: int = done) -> None:
            """Tell the progress over all clips of this rank."""
            if progress:
                progress(done * steps + step, len(share) * steps)

        [clips[index]] = sampler([prompt], indices=[index], progress=advance, **arguments(settings))

    # Rank 0 collects and writes all of them.
    clips = {index: frames for rank_clips in gather_objects(clips) for index, frames in rank_clips.items()}
    if not is_main():
        return []
    values = settings.model_dump(include=set(SIDECAR))
    paths: list[Path] = []
    samples = []
    for index, prompt in numbered:
        sidecar: dict[str, Any] = {"prompt": prompt, "index": index}
        sidecar |= {name: values[name] for name in SIDECAR}
        sidecar["num_per_prompt"] = num_per_prompt
        name = f"{index:05d}"
        paths.append(write_sample(out, name, clips[index], settings.fps, sidecar)[0])
        samples.append({"name": name, **sidecar})
    _write_index(out, samples)
    write_sheet(out / "sheet.png", [(prompt, clips[index]) for index, prompt in numbered])
    return [*paths, out / "sheet.png"]


def validation_sampler(config: TrainConfig) -> Callable[[Any, Any, Path], None]:
    """Return the function that draws a run's validation prompts.

    Training does not know inference, so it is handed this: (network, objective, folder) -> samples in the folder. The
    objective holds the run's encoders and noise schedule.

    Raises:
        ConfigError: the run has validation prompts, and its settings cannot draw them.
    """
    require_sampling(config)

    def sample(network: Any, objective: Any, folder: Path) -> None:
        """Draw the validation prompts with the network as it is at this step."""
        sampler = TextToVideo(network, objective.autoencoder, objective.text_encoder, objective.schedule)
        # The trainer has told at its start what of the prompts is cut off, so it is not told again at every validation.
        generate(sampler, config.validation_prompts, folder, BaseSettings.of(config), overwrite=True, tell_cut=False)

    return sample


def generate_cascade(
    cascade: Cascade,
    prompts: Sequence[str],
    out: str | Path,
    *,
    num_per_prompt: int = 1,
    stop_after: str = "vsr",
    sequential_guidance: bool = False,
    overwrite: bool = False,
    drop_work: bool = False,
    progress: StageProgress | None = None,
) -> list[Path]:
    """Sample every prompt through the cascade into `out`; a call that was cut short goes on where it stopped.

    Writes, for clip 00000 and so on, 00000-base.mp4, 00000-interpolation.mp4, 00000-vsr.mp4, and 00000.mp4 with the
    first beside the last; sheet.png with rows of each, and prompts.jsonl. It keeps every stage without loss in work/
    (see work.py), about 480 MB for a full-size clip, so that a later call may go on with other settings of one stage.

    Args:
        prompts: each is joined by the stages' own suffixes.
        out: created if missing.
        num_per_prompt: clips of each prompt.
        stop_after: the last stage that runs.
        sequential_guidance: see `Denoising`.
        overwrite: whether clips of other prompts, settings or weights that lie in `out` may be replaced.
        drop_work: whether the frames in work/ are deleted when all videos are written.
        progress: called after each denoising step.

    Returns:
        The videos, prompt by prompt and stage by stage, then the sheet.

    Raises:
        ConfigError: no prompts, settings that cannot be sampled, or other clips in `out`.
    """
    out = Path(out)
    if num_per_prompt < 1:
        raise ConfigError(f"num_per_prompt (--num): got {num_per_prompt}, wanted 1 or more")
    prompts = [prompt for prompt in prompts for _ in range(num_per_prompt)]

    # Finished clips that this call would replace are refused before anything is sampled.
    work = Work(out / "work")
    if not overwrite:
        for index, records in enumerate(cascade.records(prompts, stop_after=stop_after)):
            _require_own(out, work, index, records)

    clips = cascade(
        prompts, stop_after=stop_after, work=work, sequential_guidance=sequential_guidance, progress=progress
    )

    # Videos of every stage, and of the first beside the last one.
    paths, rows = [], []
    for index, (prompt, stages) in enumerate(zip(prompts, clips, strict=True)):
        for stage, frames in stages.items():
            paths.append(out / f"{index:05d}-{stage}.mp4")
            write_mp4(paths[-1], frames, cascade.settings.fps(stage))
            rows.append((f"{stage}: {prompt}", frames))
        if len(stages) > 1:
            paths.append(out / f"{index:05d}.mp4")
            write_mp4(paths[-1], beside([stages["base"], frames]), cascade.settings.fps(stage))
    write_sheet(out / "sheet.png", rows)

    # What the numbered files show, and then what they were made of is needed no more.
    made = {name: getattr(cascade.settings, name).model_dump(mode="json") for name in clips[0]}
    _write_index(out, [{"name": f"{i:05d}", "prompt": prompt, "stages": made} for i, prompt in enumerate(prompts)])
    if drop_work:
        work.drop()
    return [*paths, out / "sheet.png"]


def _require_own(out: Path, work: Work, index: int, records: Mapping[str, Record]) -> None:
    """Raise ConfigError if clip `index` in `out` was made of anything else than `records` says, stage by stage."""
    either = "give another --out folder, or --overwrite"
    kept = {stage: found for stage in records if (found := work.record(index, stage))}
    if not kept and (lying := sorted(out.glob(f"{index:05d}*.mp4"))):
        raise ConfigError(f"{lying[0]} exists, and nothing in {work.folder} says what it was made of: {either}")
    for stage, found in kept.items():
        wanted = records[stage]
        if found["prompt"] != wanted["prompt"]:
            raise ConfigError(f"{out} holds clips of other prompts, as {index:05d} of {found['prompt']!r}: {either}")
        if found["settings"] != wanted["settings"]:
            keys = [key for key, value in wanted["settings"].items() if found["settings"].get(key) != value]
            raise ConfigError(
                f"{out} holds clips of other settings, as {index:05d} ({', '.join(f'{stage}.{key}' for key in keys)}): "
                f"{either}"
            )
        if found["weights"] != wanted["weights"]:
            raise ConfigError(f"{out} holds clips of other weights of stage {stage}, as {index:05d}: {either}")


def _write_index(out: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write prompts.jsonl: one JSON object a line for each numbered sample.

    Args:
        out: the folder of the samples.
        samples: for each, the name that its files begin with, its prompt and its settings.
    """
    lines = [json.dumps(sample, ensure_ascii=False) for sample in samples]
    with replacing(out / PROMPTS) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
