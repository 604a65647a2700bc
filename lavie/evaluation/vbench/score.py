"""Scores of VBench's dimensions that need no foreign weights, each with how much the clips move.

A clip that is frozen wins every one of them, so no score is told without the motion of the same clips.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...distributed import gather_objects, rank, world_size
from ...errors import DataError
from ..clip_source import VIDEOS, Clip, find_clips
from ..measured import hash_of_clips, interval
from .dimensions import OURS
from .encoders import FrameEncoder, consistency
from .pixels import Motion, blend, flickering, motion
from .protocol import BLEND, BY_FRAMES, PROMPTS_OF, Network, Protocol
from .suite import SAMPLES, Suite

WITHOUT_NETWORK = {"temporal_flickering": flickering, BLEND: blend}
"""Scores of frames uint8 (F, H, W, 3)."""


@dataclass(frozen=True)
class Wanted:
    """The clips of one dimension."""

    clips: dict[str, Clip]
    """By their names in the source."""
    prompts: dict[str, str]
    """Which prompt each shows; itself where every clip counts."""
    missing: list[str]
    """Files that VBench would score and that are not there."""


@dataclass
class Seen:
    """What is known of one clip."""

    sha256: str = ""
    frames: int = 0
    motion: Motion | None = None
    scores: dict[str, float] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Why there is no score, by dimension."""


def score(
    source: Path,
    dimensions: Sequence[str],
    suite: Suite | None,
    encoders: Mapping[str, FrameEncoder],
    *,
    partial: bool = False,
    moved: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return a result (see `measured`) for each dimension, by its name; with several ranks, all call this.

    1. A dimension is scored on the clips of its prompts, `{prompt}-{0..4}`; without prompts, on all clips.
    2. Each clip is decoded once. The ranks share them.
    3. A network that is not VBench's gives the score another name, lavie_subject_consistency as an example.

    Args:
        source: the folder of the samples.
        dimensions: of PROMPTS_OF.
        suite: VBench's prompts.
        encoders: a network for each of subject_consistency and background_consistency that is asked for.
        partial: score what is there where files are missing.
        moved: told the number of clips done and of all, of this rank.

    Raises:
        DataError: files are missing, or no clip can be used.
    """
    found = {clip.name: clip for clip in find_clips(source)}
    wanted = {name: _wanted(found, name, suite) for name in dimensions}
    for name, part in wanted.items():
        if part.missing and not (partial and part.clips):
            count = len(part.missing) + len(part.clips)
            hint = ": draw them (`lavie eval vbench prepare`), or "
            hint += "--partial" if part.clips else "leave it out of --dimensions"
            raise DataError(
                f"{source}: {name}: {len(part.missing)} of {count} files missing, as {part.missing[0]}{hint}"
            )
    clips = {name: clip for part in wanted.values() for name, clip in part.clips.items()}
    seen = _look(clips, {name: set(part.clips) for name, part in wanted.items()}, encoders, moved)
    results = {}
    for name, part in wanted.items():
        result = _result(source, name, part, seen, suite, encoders.get(name))
        result["notes"] += _notes(name, part, set(found), suite, encoders.get(name))
        results[result["dimension"]] = result
    return results


def called(dimension: str, encoder: FrameEncoder | None) -> str:
    """Return the name of a score: VBench's only where its network is."""
    return dimension if encoder is None or encoder.is_vbenchs else OURS + dimension


def _wanted(found: Mapping[str, Clip], dimension: str, suite: Suite | None) -> Wanted:
    """Return the clips that a dimension is scored on."""
    if suite is None:
        return Wanted(dict(found), {name: name for name in found}, [])
    # Some file systems take letters and their accents apart.
    by_stem = {unicodedata.normalize("NFC", _stem(name)): name for name in found}
    clips, prompts, missing = {}, {}, []
    for prompt in suite.of([PROMPTS_OF[dimension]]):
        for sample in range(SAMPLES):
            name = by_stem.get(unicodedata.normalize("NFC", prompt.file(sample, "")))
            if name is None:
                missing.append(prompt.file(sample))
            else:
                clips[name], prompts[name] = found[name], prompt.text
    if not clips and not missing:
        raise DataError(f"--prompts: none of them is of {PROMPTS_OF[dimension]}, which {dimension} is scored on")
    return Wanted(clips, prompts, missing)


def _stem(name: str) -> str:
    """Return a clip's name without the ending of a video; a prompt may have dots of its own."""
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in VIDEOS else name


def _look(
    clips: Mapping[str, Clip],
    asked: Mapping[str, set[str]],
    encoders: Mapping[str, FrameEncoder],
    moved: Callable[[int, int], None] | None,
) -> dict[str, Seen]:
    """Return what is known of each clip, by name; the ranks share the clips."""
    share = sorted(clips)[rank() :: world_size()]
    own = {}
    for done, name in enumerate(share):
        own[name] = _look_at(clips[name], [dimension for dimension, names in asked.items() if name in names], encoders)
        if moved:
            moved(done + 1, len(share))
    seen: dict[str, Seen] = {}
    for part in gather_objects(own):
        seen |= part
    return seen


def _look_at(clip: Clip, dimensions: Sequence[str], encoders: Mapping[str, FrameEncoder]) -> Seen:
    """Return the scores of a clip in some dimensions, or why there are none."""
    seen = Seen()
    try:
        opened = clip.open()
        seen.sha256, seen.frames = opened.sha256, opened.frames
        frames = opened.read(range(seen.frames))
        seen.motion = motion(frames)
    except (DataError, OSError) as error:
        seen.faults = dict.fromkeys(dimensions, str(error))
        return seen
    for dimension in dimensions:
        try:
            if dimension in WITHOUT_NETWORK:
                seen.scores[dimension] = WITHOUT_NETWORK[dimension](frames)
            else:
                seen.scores[dimension] = consistency(encoders[dimension](frames))
        except DataError as error:
            seen.faults[dimension] = str(error)
    return seen


def _result(
    source: Path,
    dimension: str,
    part: Wanted,
    seen: Mapping[str, Seen],
    suite: Suite | None,
    encoder: FrameEncoder | None,
) -> dict[str, Any]:
    """Return the result of one dimension."""
    dropped = {name: seen[name].faults[dimension] for name in sorted(part.clips) if dimension in seen[name].faults}
    names = [name for name in sorted(part.clips) if name not in dropped]
    if not names:
        name, why = next(iter(dropped.items()))
        raise DataError(f"{source}: {dimension}: no clip can be used; {name}: {why}")
    scores = {name: seen[name].scores[dimension] for name in names}
    by_frames = dimension in BY_FRAMES
    weights = [seen[name].frames - 1 if by_frames else 1 for name in names]
    value = float(np.average(list(scores.values()), weights=weights))
    by_prompt: dict[str, list[float]] = {}
    for name, one in scores.items():
        by_prompt.setdefault(part.prompts[name], []).append(one)
    error = _error([float(np.mean(some)) for some in by_prompt.values()])
    title = called(dimension, encoder)
    network = Network(name=encoder.name, sha256=encoder.sha256, path=encoder.path) if encoder else None
    protocol = Protocol(
        dimension=title,
        prompts_sha256=suite.sha256 if suite else None,
        prompts_of=PROMPTS_OF[dimension] if suite else None,
        weighting="frames" if by_frames else "clips",
        network=network,
    )
    return {
        "metric": f"vbench {title}",
        "dimension": title,
        "value": value,
        "n": len(names),
        "standard_error": error,
        "interval": interval(value, error) if error is not None else None,
        "motion": _motion([seen[name].motion for name in names]),
        "scores": scores,
        "motion_by_clip": {name: asdict(moves) for name in names if (moves := seen[name].motion)},
        "protocol": protocol.model_dump(mode="json"),
        "protocol_hash": protocol.hash,
        "data": {
            "source": str(source),
            "hash": hash_of_clips(seen[name].sha256 for name in names),
            "prompts": len(by_prompt),
            "missing": part.missing,
            "dropped": dropped,
        },
        "notes": [f"{len(dropped)} clips left out, see data.dropped"] if dropped else [],
    }


def _error(means: Sequence[float]) -> float | None:
    """Return the standard error of a mean over prompts, whose clips resemble one another; None of fewer than two."""
    return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None


def _motion(clips: Sequence[Motion | None]) -> dict[str, float]:
    """Return the mean motion of clips."""
    rows = [asdict(clip) for clip in clips if clip]
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _notes(
    dimension: str, part: Wanted, found: set[str], suite: Suite | None, encoder: FrameEncoder | None
) -> list[str]:
    """Return what a reader of a score should know."""
    notes = ["a frozen clip scores 1 here: read the score beside the motion"]
    if part.missing:
        notes.append(f"{len(part.missing)} files of VBench's are missing: this is no score of VBench's")
    if suite is None:
        notes.append("every clip of the source counts, as in VBench's custom mode")
    elif suite.release is None:
        notes.append("the prompts are not the whole of a known release of VBench: this is no score of its table")
    if dimension == "temporal_flickering" and suite is not None:
        names = {_stem(name) for name in found}
        unfiltered = any(prompt.file(SAMPLES, "") in names for prompt in suite.of([dimension]))
        notes.append(
            "VBench scores what its static_filter.py has kept (filtered_videos); "
            + ("these clips are unfiltered: numbers above 4 are among them" if unfiltered else "not checked here")
        )
    if dimension == BLEND:
        notes.append("not VBench's motion_smoothness, which interpolates by a network (AMT-S)")
    if encoder is not None and encoder.is_vbenchs:
        notes.append(
            "the network has the shape of VBench's; whether the weights are the same is not known, see protocol"
        )
    if encoder is not None and not encoder.is_vbenchs:
        notes.append(f"the network, {encoder.name}, is not VBench's: the score has another name and another scale")
    return notes


def vbench_layout(results: Mapping[str, Mapping[str, Any]], source: Path) -> dict[str, Any]:
    """Return results in the layout of VBench's `*_eval_results.json`, with the motion beside them under own names."""
    layout: dict[str, Any] = {}
    motions: dict[str, Mapping[str, float]] = {}
    for name, result in results.items():
        rows = [{"video_path": str(source / clip), "video_results": one} for clip, one in result["scores"].items()]
        layout[name] = [result["value"], rows]
        motions |= result["motion_by_clip"]
    for key in ("difference", "displacement", "displacement_top"):
        rows = [{"video_path": str(source / clip), "video_results": one[key]} for clip, one in sorted(motions.items())]
        layout[f"{OURS}motion_{key}"] = [float(np.mean([row["video_results"] for row in rows])), rows]
    return layout
