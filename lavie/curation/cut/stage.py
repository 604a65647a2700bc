"""The stage `cut`: films to clips of one shot each, in one tar for each unit."""

import hashlib
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...config.curate_cut import CutConfig
from ...data.prepare.sandbox import Sandbox
from ...data.shards.index_file import Rejected
from ...errors import DataError
from ..stage import Done, Stage
from ..table import clip_id
from ..unit import Unit
from .encoding import even_box
from .film import Clip, cut_film, film_pictures
from .shots import Shot, shots_of, split
from .splitters.base import Splitter
from .splitters.choice import find_splitter
from .tar import ClipTar

COLUMNS = {
    "clip": "string",
    "film": "string",
    "category": "string",
    "stream": "int32",
    "start": "int32",
    "end": "int32",
    "t0": "double",
    "t1": "double",
    "frames": "int32",
    "fps": "double",
    "vfr": "bool",
    "duration": "double",
    "width": "int32",
    "height": "int32",
    "crop": "list<int32>",
    "method": "string",
    "why": "list<string>",
    "format": "string",
    "codec": "string",
    "audio": "bool",
    "offset": "int64",
    "bytes": "int64",
    "sha256": "string",
    "notes": "list<string>",
    "remarks": "list<string>",
}
"""One row for each clip, by film and start. start and end: decoded frames of the film, the end exclusive; t0, t1:
seconds from its first frame. fps, vfr, duration, width and height are those of the clip as its file is read; crop is
the part of the film's picture (x, y, w, h) that an encoded clip keeps, null for all of it. method: copy or encode; why:
the reasons for which it was not copied. offset and bytes: its place in OUT/clips/<unit>.tar. notes: what of the film
had to be interpreted, and why its sound is left out where it was to be kept. remarks: what readers of the
clip's file have to interpret."""


def work(unit: Unit, config: CutConfig) -> Done:
    """Cut the films of a unit; a film or clip that cannot be made is refused by name."""
    splitter = find_splitter(config.splitter)
    rows: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    frames = unit.frames()
    with closing(Sandbox()) as sandbox, ClipTar(unit.partial("clips")) as tar:
        for film in unit.read("scan").to_pylist():
            path, arrays, made = unit.src / film["film"], frames[film["film"]], []
            times = np.append(arrays["time"], arrays["time"][-1] + 1 / film["fps"])
            try:
                shots, short = _shots(path, sandbox, splitter, film, arrays, times, config)
            except DataError as error:
                rejected.append(Rejected(film["film"], "cannot be split", str(error)))
                continue
            rejected += [_refused(film, shot, "too short", _length(shot, config)) for shot in short]
            for clip in cut_film(path, sandbox, film, arrays, shots, keep_audio=config.keep_audio):
                if clip.error:
                    rejected.append(_refused(film, shots[clip.place], "cannot be cut", clip.error))
                else:
                    made.append(_row(film, shots[clip.place], clip, times, tar))
            rows += sorted(made, key=lambda row: row["start"])
    return Done({name: [row[name] for row in rows] for name in COLUMNS}, rejected)


def _shots(
    path: Path,
    sandbox: Sandbox,
    splitter: Splitter,
    film: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    times: np.ndarray,
    config: CutConfig,
) -> tuple[list[Shot], list[Shot]]:
    """Return what is to become clips of a film, and what is too short for one."""
    transitions = splitter.transitions(arrays, partial(film_pictures, path, sandbox, film))
    parts = [
        part
        for shot in shots_of(transitions, film["frames"])
        for part in split(shot, times, arrays["key"], config.max_seconds)
    ]
    is_long = [part.end - part.start >= config.min_frames for part in parts]
    return (
        [part for part, long in zip(parts, is_long, strict=True) if long],
        [part for part, long in zip(parts, is_long, strict=True) if not long],
    )


def _length(shot: Shot, config: CutConfig) -> str:
    """Return what is told of a shot that is too short."""
    return f"{shot.end - shot.start} frames: wanted cut.min_frames, {config.min_frames}"


def _refused(film: Mapping[str, Any], shot: Shot, reason: str, detail: str) -> Rejected:
    """Return a shot that becomes no clip."""
    return Rejected(f"{film['film']} frames {shot.start} to {shot.end - 1}", reason, detail)


def _row(film: Mapping[str, Any], shot: Shot, clip: Clip, times: np.ndarray, tar: ClipTar) -> dict[str, Any]:
    """Write a clip into the tar, and return its row."""
    is_copy = clip.facts["method"] == "copy"
    crop = None if is_copy else even_box(film["crop"], (film["width"], film["height"]))
    name = clip_id(film["sha256"], film["stream"], *shot, crop)
    return {
        **{key: film[key] for key in ("film", "category", "stream")},
        **{key: value for key, value in clip.facts.items() if key in COLUMNS},
        "clip": name,
        "start": shot.start,
        "end": shot.end,
        "t0": float(times[shot.start]),
        "t1": float(times[shot.end]),
        "crop": crop,
        "notes": film["notes"] + [clip.facts["note"]] * bool(clip.facts["note"]),
        "offset": tar.add(f"{name}.{clip.facts['format']}", clip.data),
        "bytes": len(clip.data),
        "sha256": hashlib.sha256(clip.data).hexdigest(),
    }


CUT = Stage("cut", 1, ("scan",), CutConfig, COLUMNS, work=work, side=("clips",))
