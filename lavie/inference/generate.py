"""Sampling into a folder: prompts in, numbered clips and one contact sheet out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.train import TrainConfig
from ..distributed import gather_objects, is_main, rank, world_size
from ..errors import ConfigError
from ..files import replacing
from ..models.lora.choice import LoraChoice
from ..models.prompt_reading import warn_of_unread
from ..models.prompt_syntax import parse_weights
from ..run_folder import PROMPTS
from .cascade import Cascade, CascadeClip, StageProgress
from .contact_sheet import beside
from .preview import Preview, PreviewFile, fit_preview
from .prompt_file import Request, as_requests, require_same_stages
from .sampler import Progress
from .schedulers import require_sampling
from .settings import BaseSettings, StageSettings, arguments
from .start import Start
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
    "prompt_syntax",
    "prompt_chunks",
    "clip_skip",
    "cache_interval",
    "freeu",
)
"""The settings that the JSON file beside a sample names."""
GRID_FRAMES = 3
"""Frames of a clip that a sheet of several columns shows."""


def generate(
    sampler: Callable[..., np.ndarray],
    prompts: Sequence[str | Request],
    out: str | Path,
    settings: BaseSettings,
    *,
    num_per_prompt: int = 1,
    overwrite: bool = False,
    tell_cut: bool = True,
    loras: Sequence[LoraChoice] = (),
    columns: int = 1,
    preview: Preview | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Sample every prompt from a base network, one clip at a time, into `out`.

    Writes 00000.mp4, .gif, .sheet.png, .json and so on (00000.png, .json for images), prompt by prompt, and sheet.png
    and prompts.jsonl of all. A clip depends on the settings, its prompt and its number only. With several ranks, all
    call this function and share the prompts.

    Args:
        sampler: a `TextToVideo`.
        prompts: drawn without the settings' suffix; a `Request` has settings of its own over `settings`.
        out: created if missing.
        num_per_prompt: clips of each prompt.
        overwrite: whether samples that lie in `out` may be replaced.
        tell_cut: whether a warning names the words of prompts that the text encoder never reads.
        loras: those that the sampler's network has, to be named in the JSON beside each sample.
        columns: clips beside one another on sheet.png.
        preview: shows each step of rank 0's clips in OUT/preview.png, which is deleted in the end; None: no picture.
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
    requests = as_requests(prompts)
    clips_asked = _numbered(requests, settings, num_per_prompt)
    for clip in clips_asked[::num_per_prompt]:
        _require_readable(clip.request.prompt, clip.settings)
        if isinstance(sampler, TextToVideo):
            _require(sampler, clip)
    if is_main():
        out.mkdir(parents=True, exist_ok=True)
    if is_main() and tell_cut:
        encoder = getattr(sampler, "text_encoder", None)
        firsts = clips_asked[::num_per_prompt]
        texts = [(clip.request.prompt, clip) for clip in firsts]
        texts += [(clip.settings.negative_prompt, clip) for clip in firsts]
        warn_of_unread((encoder, text, clip.settings.reading) for text, clip in texts)

    # Every rank samples each world_size-th clip.
    share = clips_asked[rank() :: world_size()]
    clips: dict[int, np.ndarray] = {}
    picture = PreviewFile(out, preview) if preview and is_main() else None
    shown = {"watch": picture} if picture else {}
    for done, clip in enumerate(share):

        def advance(step: int, steps: int, done: int = done) -> None:
            """Tell the progress over all clips of this rank."""
            if progress:
                progress(done * steps + step, len(share) * steps)

        [clips[clip.number]] = sampler(
            [clip.request.prompt], indices=[clip.index], progress=advance, **shown, **arguments(clip.settings)
        )

    # Rank 0 collects and writes all of them.
    clips = {index: frames for rank_clips in gather_objects(clips) for index, frames in rank_clips.items()}
    if not is_main():
        return []
    paths: list[Path] = []
    samples = []
    for clip in clips_asked:
        sidecar: dict[str, Any] = {"prompt": clip.request.prompt, "index": clip.index}
        values = clip.settings.model_dump(mode="json", include=set(SIDECAR))
        sidecar |= {name: values[name] for name in SIDECAR}
        sidecar["num_per_prompt"] = num_per_prompt
        if loras:
            sidecar["loras"] = [lora.record() for lora in loras]
        name = f"{clip.number:05d}"
        paths.append(write_sample(out, name, clips[clip.number], clip.settings.fps, sidecar)[0])
        samples.append({"name": name, **sidecar})
    _write_index(out, samples)
    _write_sheet(out, [(clip.request, clips[clip.number]) for clip in clips_asked], columns)
    if picture:
        picture.remove()
    return [*paths, out / "sheet.png"]


@dataclass(frozen=True)
class _Clip:
    """One clip of `generate`."""

    request: Request
    number: int
    """The number of its files."""
    index: int
    """The number that, with the seed, decides its noise."""
    settings: BaseSettings


def _numbered(requests: Sequence[Request], settings: BaseSettings, num_per_prompt: int) -> list[_Clip]:
    """Return the clips of all requests, with the settings of each."""
    clips: list[_Clip] = []
    for request in requests:
        own = request.over(settings)
        first = len(clips)
        for index in request.indices(first, num_per_prompt):
            clips.append(_Clip(request, len(clips), index, own))
    return clips


def _require(sampler: TextToVideo, clip: _Clip) -> None:
    """Raise ConfigError, which names the prompt if it has settings of its own, unless a clip can be drawn."""
    try:
        sampler.require(Start(), clip.settings)
    except ConfigError as error:
        raise ConfigError(f"prompt {clip.request.prompt!r}: {error}" if clip.request.changes else str(error)) from None


def _require_readable(prompt: str, settings: StageSettings) -> None:
    """Raise ConfigError if the brackets of a prompt, or of its negative one, cannot be read."""
    if settings.prompt_syntax == "weights":
        parse_weights(prompt + settings.prompt_suffix)
        parse_weights(settings.negative_prompt)


def _write_sheet(out: Path, shown: Sequence[tuple[Request, np.ndarray]], columns: int) -> None:
    """Write sheet.png of requests and their clips: one below the other, or in columns."""
    rows = [(request.prompt if request.caption is None else request.caption, frames) for request, frames in shown]
    options: dict[str, int] = {}
    if columns > 1:
        images = all(len(frames) == 1 for _, frames in rows)
        options = {"across": columns, "columns": columns if images else GRID_FRAMES}
    write_sheet(out / "sheet.png", rows, **options)


def validation_sampler(config: TrainConfig) -> Callable[[Any, Any, Path], None]:
    """Return the function that draws a run's validation prompts.

    Training does not know inference, so it is handed this: (network, objective, folder) -> samples in the folder. The
    objective holds the run's encoders and noise schedule.

    Raises:
        ConfigError: the run has validation prompts, and its settings cannot draw them.
    """
    require_sampling(config)
    fitted: list[Preview] = []

    def sample(network: Any, objective: Any, folder: Path) -> None:
        """Draw the validation prompts with the network as it is at this step."""
        sampler = TextToVideo(network, objective.autoencoder, objective.text_encoder, objective.schedule)
        if is_main() and not fitted:
            fitted.append(fit_preview(objective.autoencoder, objective.device))
        # The trainer has told at its start what of the prompts is cut off, so it is not told again at every validation.
        generate(
            sampler,
            config.validation_prompts,
            folder,
            BaseSettings.of(config),
            overwrite=True,
            tell_cut=False,
            preview=fitted[0] if fitted else None,
        )

    return sample


def generate_cascade(
    cascade: Cascade,
    prompts: Sequence[str | Request],
    out: str | Path,
    *,
    starts: Sequence[Start] | None = None,
    num_per_prompt: int = 1,
    stop_after: str = "vsr",
    sequential_guidance: bool = False,
    overwrite: bool = False,
    drop_work: bool = False,
    columns: int = 1,
    preview: bool = False,
    progress: StageProgress | None = None,
    finished: Callable[[CascadeClip], None] | None = None,
) -> list[Path]:
    """Sample every prompt through the cascade into `out`; a call that was cut short goes on where it stopped.

    Writes, for clip 00000 and so on, 00000-base.mp4, 00000-interpolation.mp4, 00000-vsr.mp4, and 00000.mp4 with the
    first beside the last; sheet.png with rows of each, and prompts.jsonl. It keeps every stage without loss in work/
    (see work.py), about 480 MB for a full-size clip, so that a later call may go on with other settings of one stage.

    Args:
        prompts: each is joined by the stages' own suffixes; a `Request` has settings of its own over the cascade's.
        out: created if missing.
        starts: what the clips of each prompt start from besides it; default: nothing.
        num_per_prompt: clips of each prompt.
        stop_after: the last stage that runs.
        sequential_guidance: see `Denoising`.
        overwrite: whether clips of other prompts, settings or weights that lie in `out` may be replaced.
        drop_work: whether the frames in work/ are deleted when all videos are written.
        columns: clips beside one another on sheet.png, which then shows the last stage alone.
        preview: whether OUT/preview.png shows each step while clips are drawn; it is deleted in the end.
        progress: called after each denoising step.
        finished: called with each clip when all are drawn, before videos are written.

    Returns:
        The videos, prompt by prompt and stage by stage, then the sheet.

    Raises:
        ConfigError: no prompts, settings that cannot be sampled, or other clips in `out`.
    """
    out = Path(out)
    if num_per_prompt < 1:
        raise ConfigError(f"num_per_prompt (--num): got {num_per_prompt}, wanted 1 or more")
    requests = as_requests(prompts)
    require_same_stages(requests, cascade.until(stop_after))
    if starts is not None and len(starts) != len(requests):
        raise ConfigError(f"got {len(requests)} prompts and {len(starts)} starts: wanted one for each")
    own: Sequence[Start | None] = starts or [None] * len(requests)
    asked: list[tuple[Request, CascadeClip]] = []
    for request, start in zip(requests, own, strict=True):
        settings = request.over(cascade.settings)
        for index in request.indices(len(asked), num_per_prompt):
            clip = CascadeClip(request.prompt, index, number=len(asked), settings=settings, start=start)
            asked.append((request, clip))
        for stage in cascade.until(stop_after):
            for text in clip.texts(stage):
                _require_readable(text, getattr(settings, stage))

    # Finished clips that this call would replace are refused before anything is sampled.
    work = Work(out / "work")
    if not overwrite:
        for index, (_, clip) in enumerate(asked):
            _require_own(out, work, index, cascade.records(clip, stop_after=stop_after))

    cascade.draw(
        [clip for _, clip in asked],
        stop_after=stop_after,
        work=work,
        sequential_guidance=sequential_guidance,
        preview=out if preview else None,
        progress=progress,
    )
    if finished:
        for _, clip in asked:
            finished(clip)

    # Videos of every stage, and of the first beside the last one.
    paths, rows, samples = [], [], []
    for index, (request, clip) in enumerate(asked):
        settings, stages = clip.settings, clip.frames
        for stage, frames in stages.items():
            paths.append(out / f"{index:05d}-{stage}.mp4")
            write_mp4(paths[-1], frames, settings.fps(stage))
            rows.append((f"{stage}: {request.prompt}", frames))
        if len(stages) > 1:
            paths.append(out / f"{index:05d}.mp4")
            write_mp4(paths[-1], beside([stages["base"], frames]), settings.fps(stage))
        made = {name: getattr(settings, name).model_dump(mode="json") for name in stages}
        sample = {"name": f"{index:05d}", "prompt": request.prompt, "index": clip.index, "stages": made}
        samples.append(sample | ({"loras": [lora.record() for lora in cascade.loras]} if cascade.loras else {}))
    if columns > 1:
        _write_sheet(out, [(request, list(clip.frames.values())[-1]) for request, clip in asked], columns)
    else:
        write_sheet(out / "sheet.png", rows)

    # What the numbered files show, and then what they were made of is needed no more.
    _write_index(out, samples)
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
        if found.get("start") != wanted.get("start"):
            raise ConfigError(
                f"{out} holds clips of another start (frames, strength or segments), as {index:05d}: {either}"
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
