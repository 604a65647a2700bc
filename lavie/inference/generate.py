"""Sampling into a folder: prompts in, numbered clips and one contact sheet out."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.train import TrainConfig
from ..distributed import barrier, gather_objects, is_main, rank, world_size
from ..errors import ConfigError
from ..files import replacing
from ..models.lora.choice import LoraChoice
from ..models.prompt_reading import warn_of_uncalled, warn_of_unread
from ..run_folder import PROMPTS
from .asked import WORK, asked_clips, require_readable
from .cascade import Cascade, CascadeClip, StageProgress
from .contact_sheet import COLUMNS, beside, reduced
from .earlier import kept_clips, listed_stages, lying_clips, numbered_samples, remove_clips, remove_videos
from .finite import NotFiniteError, naming_clip
from .preview import Preview, PreviewFile, fit_preview
from .prompt_file import Request, as_requests
from .sampler import Progress
from .schedulers import require_sampling
from .settings import BaseSettings, arguments
from .start import Start
from .text_to_video import TextToVideo
from .video_io import sample_files, write_mp4, write_sample, write_sheet
from .work import Work

log = logging.getLogger("lavie")

GRID_FRAMES = 3
"""Frames of a clip that a sheet of several columns shows."""


def generate(
    sampler: Callable[..., np.ndarray],
    prompts: Sequence[str | Request],
    out: str | Path,
    settings: BaseSettings,
    *,
    num_per_prompt: int = 1,
    weights: str = "",
    overwrite: bool = False,
    tell_cut: bool = True,
    loras: Sequence[LoraChoice] = (),
    columns: int = 1,
    preview: Preview | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Sample every prompt from a base network, one clip at a time, into `out`.

    Writes 00000.mp4, .gif, .sheet.png, .json and so on (00000.png, .json for images), each clip when it is drawn, then
    sheet.png and prompts.jsonl of all. A clip depends on the settings, its prompt and its number only. With several
    ranks, all call this function and share the prompts. A call that was cut short goes on where it stopped, if it says
    what its `weights` are.

    Args:
        sampler: a `TextToVideo`.
        prompts: drawn without the settings' suffix; a `Request` has settings of its own over `settings`.
        out: created if missing.
        num_per_prompt: clips of each prompt.
        weights: what identifies the network and the words that it has learnt; their hash stands beside each sample.
        overwrite: whether samples that lie in `out` may be replaced: all are drawn anew.
        tell_cut: whether a warning names the words of prompts that the text encoder never reads.
        loras: those that the sampler's network has, to be named in the JSON beside each sample.
        columns: clips beside one another on sheet.png.
        preview: shows each step of rank 0's clips in OUT/preview.png, which is deleted in the end; None: no picture.
        progress: called after every denoising step as progress(step, steps), over the clips that are drawn.

    Returns:
        On rank 0 the clips (or pictures) in order, then the sheet; on other ranks nothing.

    Raises:
        ConfigError: no prompts, settings that cannot be sampled, or other samples already in `out`.
        NotFiniteError: on all ranks, if one draws NaN or infinity; clips that were finished stay.
    """
    # What could stop the writing stops the call now, before hours of sampling.
    out = Path(out)
    clips, sidecars = _asked(sampler, prompts, settings, num_per_prompt, weights, loras)
    frames_shown = GRID_FRAMES if columns > 1 else COLUMNS
    kept = {} if overwrite else kept_clips(out, sidecars, frames_shown, comparable=bool(weights))
    barrier()
    if is_main():
        out.mkdir(parents=True, exist_ok=True)
        others = numbered_samples(out) - sidecars.keys() if overwrite else set()
        remove_clips(out, (sidecars.keys() - kept.keys()) | others)
        if others:
            log.warning("%s: %d clips of an earlier call, from %s on, are deleted", out, len(others), min(others))
        if tell_cut:
            _tell_reading(sampler, clips[::num_per_prompt])
        if kept:
            log.warning("%s: %d of %d samples are there from a call that was cut short", out, len(kept), len(clips))
    shown = dict(kept) if is_main() else {}
    barrier()

    # Every rank samples each world_size-th clip, writes it, and keeps what the sheet shows of it.
    share = [clip for clip in clips if clip.name not in kept][rank() :: world_size()]
    picture = PreviewFile(out, preview) if preview and is_main() else None
    watch = {"watch": picture} if picture else {}
    failed = ""
    for done, clip in enumerate(share):

        def advance(step: int, steps: int, done: int = done) -> None:
            """Tell the progress over all clips of this rank."""
            if progress:
                progress(done * steps + step, len(share) * steps)

        try:
            with naming_clip(f"clip {clip.name}, stage base ({clip.request.prompt!r})"):
                [frames] = sampler(
                    [clip.request.prompt], indices=[clip.index], progress=advance, **watch, **arguments(clip.settings)
                )
        except NotFiniteError as error:  # the other ranks wait for this one, and end with it
            failed = str(error)
            break
        write_sample(out, clip.name, frames, clip.settings.fps, sidecars[clip.name])
        shown[clip.name] = reduced(frames, frames_shown)

    # Rank 0 writes what is of all clips, and last the list of them: it says that the call is done.
    of_ranks = gather_objects((shown, failed))
    if picture:
        picture.remove()
    if failed := next((message for _, message in of_ranks if message), ""):
        raise NotFiniteError(failed)
    shown = {name: frames for of_rank, _ in of_ranks for name, frames in of_rank.items()}
    if not is_main():
        return []
    _write_sheet(out, [(clip.request, shown[clip.name]) for clip in clips], columns)
    _write_index(out, [{"name": name, **sidecar} for name, sidecar in sidecars.items()])
    clip_files = [out / sample_files(clip.name, clip.settings.num_frames)[0] for clip in clips]
    return [*clip_files, out / "sheet.png"]


def require_samples(
    sampler: Callable[..., np.ndarray],
    prompts: Sequence[str | Request],
    out: str | Path,
    settings: BaseSettings,
    *,
    num_per_prompt: int = 1,
    weights: str = "",
    overwrite: bool = False,
    loras: Sequence[LoraChoice] = (),
) -> None:
    """Check, without computing or writing anything, that `generate` can draw and write what it is asked for.

    Args:
        sampler: on any device, the meta device too: no weights need be read.
        prompts, out, settings, num_per_prompt, weights, overwrite, loras: as for `generate`.

    Raises:
        ConfigError: as `generate`.
    """
    _, sidecars = _asked(sampler, prompts, settings, num_per_prompt, weights, loras)
    if not overwrite:
        lying_clips(Path(out), sidecars, comparable=bool(weights))


@dataclass(frozen=True)
class _Clip:
    """One clip of `generate`."""

    request: Request
    number: int
    """The number of its files."""
    index: int
    """The number that, with the seed, decides its noise."""
    settings: BaseSettings

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.number:05d}"

    def sidecar(self) -> dict[str, Any]:
        """Return what decides its frames, but for the weights, as JSON values."""
        values = self.settings.model_dump(mode="json", exclude={"prompt_suffix"})
        return {"prompt": self.request.prompt, "index": self.index, **values}


def _asked(
    sampler: Callable[..., np.ndarray],
    prompts: Sequence[str | Request],
    settings: BaseSettings,
    num_per_prompt: int,
    weights: str,
    loras: Sequence[LoraChoice],
) -> tuple[list[_Clip], dict[str, dict[str, Any]]]:
    """Return the clips that a call asks for, and their sidecars by name; ConfigError if one cannot be drawn."""
    if not prompts or num_per_prompt < 1:
        raise ConfigError(f"got {len(prompts)} prompts and num_per_prompt {num_per_prompt}: wanted 1 of each, or more")
    clips = _numbered(as_requests(prompts), settings, num_per_prompt)
    shared: dict[str, Any] = {"num_per_prompt": num_per_prompt} | (
        {"loras": [lora.record() for lora in loras]} if loras else {}
    )
    if weights:
        shared["weights"] = hashlib.sha256(weights.encode()).hexdigest()[:16]
    for clip in clips[::num_per_prompt]:
        require_readable(clip.request.prompt, clip.settings)
        if isinstance(sampler, TextToVideo):
            _require(sampler, clip)
    return clips, {clip.name: clip.sidecar() | shared for clip in clips}


def _tell_reading(sampler: Callable[..., np.ndarray], clips: Sequence[_Clip]) -> None:
    """Warn of the words of prompts that the sampler's text encoder never reads, and of those that it learnt in vain."""
    encoder = getattr(sampler, "text_encoder", None)
    texts = [(clip.request.prompt, clip) for clip in clips]
    texts += [(clip.settings.negative_prompt, clip) for clip in clips]
    read = [(encoder, text, clip.settings.reading) for text, clip in texts]
    warn_of_unread(read)
    warn_of_uncalled(read)


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
        try:
            generate(
                sampler,
                config.validation_prompts,
                folder,
                BaseSettings.of(config),
                overwrite=True,
                tell_cut=False,
                preview=fitted[0] if fitted else None,
            )
        except NotFiniteError as error:  # whether the run can go on is told by its loss, not by its samples
            log.error("validation: %s", error)

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
    asked = asked_clips(
        cascade,
        prompts,
        out,
        starts=starts,
        num_per_prompt=num_per_prompt,
        stop_after=stop_after,
        overwrite=overwrite,
    )
    work = Work(out / WORK)
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
    if overwrite and (removed := remove_videos(out, listed_stages(out), paths)):
        work.forget(len(asked))
        log.warning("%s: videos that this call does not draw are deleted, of %d clips of an earlier one", out, removed)
    _write_index(out, samples)
    if drop_work:
        work.drop()
    return [*paths, out / "sheet.png"]


def _write_index(out: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write prompts.jsonl: one JSON object a line for each numbered sample.

    Args:
        out: the folder of the samples.
        samples: for each, the name that its files begin with, its prompt and its settings.
    """
    lines = [json.dumps(sample, ensure_ascii=False) for sample in samples]
    with replacing(out / PROMPTS) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
