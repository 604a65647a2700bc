"""Samples under names of one's own: a list of jobs, each a prompt and the file that shows it.

Protocols ask for thousands of files of certain names (UCF101, VBench). They are drawn in any number of calls and on any
number of ranks, and a file that is there is not drawn again. Beside them lie settings.json, which says by what they
were drawn, and prompts.jsonl, which says of each its prompt and noise.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from ..config.base import Strict
from ..distributed import barrier, is_main, rank, world_size
from ..errors import ConfigError
from ..files import LONGEST_NAME, replacing
from ..models.prompt_reading import warn_of_uncalled
from ..run_folder import PROMPTS
from .finite import naming_clip
from .sampler import Progress
from .settings import BaseSettings, arguments
from .video_io import write_mp4, write_png

SETTINGS = "settings.json"
"""The file beside the samples that says by what they were drawn."""


class Job(Strict):
    """One sample that is asked for."""

    prompt: str
    """What to draw."""
    name: str
    """The file, relative to the folder of the samples: .mp4 for a clip, .png for an image."""
    index: Annotated[int, Field(ge=0, strict=True)]
    """Which noise: samples of one prompt have different numbers."""

    @field_validator("prompt")
    @classmethod
    def _text(cls, prompt: str) -> str:
        """Refuse what is no text."""
        if "\0" in prompt:
            raise ValueError(f"{prompt[:40]!r} holds a NUL character, wanted a text")
        return prompt

    @field_validator("name")
    @classmethod
    def _inside(cls, name: str) -> str:
        """Refuse a name that leads out of the folder, or has another ending."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name or path.suffix not in (".mp4", ".png"):
            raise ValueError(f"{name!r}: wanted a relative path that ends in .mp4 or .png")
        if any(len(part.encode("utf-8", "surrogatepass")) > LONGEST_NAME for part in path.parts):
            raise ValueError(f"{name[:40]!r}...: file systems take names of {LONGEST_NAME} bytes")
        return str(path)  # one file has one name: ./a.mp4 is a.mp4


def write_jobs(path: Path, jobs: Iterable[Job]) -> int:
    """Write jobs as JSON lines, and return their number."""
    lines = [json.dumps(job.model_dump(), ensure_ascii=False) for job in jobs]
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, "\n".join(lines))
    return len(lines)


def read_jobs(path: Path) -> list[Job]:
    """Return the jobs of a file of JSON lines.

    Raises:
        ConfigError: the file cannot be read, a line is no job, or two are of one name.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a prompt may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--jobs {path}: cannot be read: {error}") from None
    jobs: dict[str, Job] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            job = Job.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "the line"
            raise ConfigError(f"--jobs {path}, line {number}: {place}: {fault['msg']}") from None
        if job.name in jobs:
            raise ConfigError(f"--jobs {path}, line {number}: {job.name} stands there twice")
        jobs[job.name] = job
    for job in jobs.values():
        if folder := next((str(path) for path in PurePosixPath(job.name).parents if str(path) in jobs), None):
            raise ConfigError(f"--jobs {path}: {folder} is the file of one job, and the folder of {job.name}")
    if not jobs:
        raise ConfigError(f"--jobs {path}: no line has a job")
    return list(jobs.values())


def draw(
    sampler: Callable[..., np.ndarray],
    jobs: Sequence[Job],
    out: Path,
    settings: BaseSettings,
    *,
    weights: str,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Draw the jobs whose files are not there, and return how many this rank drew; all ranks call it.

    Args:
        sampler: a `TextToVideo`.
        jobs: of distinct names.
        out: created if missing.
        settings: of the samples. A folder holds samples of one set of settings and weights.
        weights: what identifies the network.
        overwrite: whether files of other settings, weights or prompts may be replaced; then they are drawn anew.
        progress: called after every denoising step as progress(step, steps), over all jobs of this rank.

    Raises:
        ConfigError: `out` holds samples of other settings, weights or prompts, or none that say what they are.
        NotFiniteError: a sample has NaN or infinity.
    """
    record, listed, there, stale = _lying(jobs, out, settings, weights, overwrite)
    kept = {job.name for job in there} - {job.name for job in stale}
    todo = [job for job in jobs if job.name not in kept]
    barrier()
    if is_main():
        # What is replaced goes first: if this call is cut, the next one does not take it for drawn.
        for job in stale:
            (out / job.name).unlink()
        out.mkdir(parents=True, exist_ok=True)
        listed |= {job.name: job.model_dump() for job in jobs}
        _write(out / SETTINGS, json.dumps(record, indent=2))
        _write(out / PROMPTS, "\n".join(json.dumps(entry, ensure_ascii=False) for entry in listed.values()))
    barrier()

    if is_main():
        encoder = getattr(sampler, "text_encoder", None)
        texts = [*(job.prompt for job in jobs), settings.negative_prompt]
        warn_of_uncalled((encoder, text, settings.reading) for text in texts)
    share = todo[rank() :: world_size()]
    for done, job in enumerate(share):

        def advance(step: int, steps: int, done: int = done) -> None:
            """Tell the progress over all jobs of this rank."""
            if progress:
                progress(done * steps + step, len(share) * steps)

        with naming_clip(f"{job.name}, stage base ({job.prompt!r})"):
            [frames] = sampler([job.prompt], indices=[job.index], progress=advance, **arguments(settings))
        path = out / job.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            write_png(path, frames[0])
        else:
            write_mp4(path, frames, settings.fps)
    barrier()
    return len(share)


def require_jobs(
    jobs: Sequence[Job], out: Path, settings: BaseSettings, *, weights: str, overwrite: bool = False
) -> None:
    """Check, before weights are read, that `draw` may write into `out`. Raises ConfigError as `draw` does."""
    _lying(jobs, out, settings, weights, overwrite)


def _lying(
    jobs: Sequence[Job], out: Path, settings: BaseSettings, weights: str, overwrite: bool
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[Job], list[Job]]:
    """Return what made the samples of a call, what `out` lists, and of the jobs those that are there, and are stale.

    Raises:
        ConfigError: some are stale, and may not be replaced.
    """
    record = json.loads(json.dumps({"settings": settings.model_dump(mode="json"), "weights": weights}))
    known = _record(out / SETTINGS)
    there = [job for job in jobs if (out / job.name).exists()]
    listed = _listed(out / PROMPTS) if known == record else {}
    stale = [job for job in there if known != record or job.model_dump() != listed.get(job.name, job.model_dump())]
    if stale and not overwrite:
        what = "settings or weights" if known != record else f"prompts or noise, as {stale[0].name}"
        raise ConfigError(f"{out} holds samples of other {what}: another --out, or --overwrite")
    return record, listed, there, stale


def _record(path: Path) -> Any:
    """Return what a settings.json holds; None where there is none. Raises ConfigError for junk."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no settings of samples that can be read: {error}: another --out") from None


def _listed(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a prompts.jsonl by name; none where there is no such file. Raises ConfigError for junk."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        return {entry["name"]: entry for entry in map(json.loads, filter(str.strip, lines))}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: no list of samples that can be read: {error}: another --out") from None


def _write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
