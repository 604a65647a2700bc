"""What an earlier call of `generate` has left in a folder: numbered clips, each with a JSON file that says what it is.

The JSON file of a clip is written before its other files, and prompts.jsonl behind those of all clips. So a clip is
there when all its files are, and a folder without prompts.jsonl is one of a call that was cut short.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config.stages import STAGES
from ..data.media.decode import read_frames
from ..data.media.image import decode_image
from ..errors import ConfigError, DataError
from ..run_folder import PROMPTS
from .contact_sheet import picked, reduced
from .video_io import sample_files

log = logging.getLogger("lavie")

Sidecars = Mapping[str, Mapping[str, Any]]
"""By the name that a clip's files begin with: the values of its JSON file, of which `num_frames` is one."""


NUMBER = re.compile(r"[0-9]{5,}")
"""The names that clips are numbered by."""


def lying_clips(out: Path, sidecars: Sidecars, *, comparable: bool) -> set[str]:
    """Return the names of the clips of a call that an earlier one, which was cut short, has drawn already.

    Args:
        out: the folder of the samples.
        sidecars: those of the call.
        comparable: whether they name the weights, without which nobody knows what made a clip.

    Raises:
        ConfigError: there are clips in `out` of a call that was finished, of another one, or of something unknown.
    """
    lying = _names(out) & sidecars.keys()
    either = "give another --out folder, or --overwrite"
    if lying and (not comparable or (out / PROMPTS).exists()):
        raise ConfigError(f"{out} holds samples already: {either}")
    if others := numbered_samples(out) - sidecars.keys():
        raise ConfigError(f"{out} holds {min(others)} of an earlier call, which this one does not draw: {either}")
    whole = set()
    for name in sorted(lying):
        found, wanted = _sidecar(out / f"{name}.json"), sidecars[name]
        if found is None:
            raise ConfigError(f"{out} holds {name}, and no {name}.json says what it was made of: {either}")
        if found != wanted:
            keys = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            raise ConfigError(f"{out} holds samples of another {' and '.join(keys)}, as {name}: {either}")
        if all((out / file).is_file() for file in sample_files(name, wanted["num_frames"])):
            whole.add(name)
    return whole


def kept_clips(out: Path, sidecars: Sidecars, columns: int, *, comparable: bool) -> dict[str, np.ndarray]:
    """Return of each of the `lying_clips` what a sheet of so many columns shows, by name: uint8 (F, h, w, 3).

    A clip that is damaged is none of them, and a warning names the file.
    """
    lying = sorted(lying_clips(out, sidecars, comparable=comparable))
    shown = {name: _shown_frames(out, name, sidecars[name]["num_frames"], columns) for name in lying}
    return {name: frames for name, frames in shown.items() if frames is not None}


def numbered_samples(out: Path) -> set[str]:
    """Return the names of all clips in a folder that `generate` has numbered: their JSON files say what they are."""
    found = set()
    for path in out.glob("*.json") if out.is_dir() else ():
        if NUMBER.fullmatch(path.stem) and {"prompt", "index", "num_frames"} <= (_sidecar(path) or {}).keys():
            found.add(path.stem)
    return found


def remove_clips(out: Path, names: set[str]) -> None:
    """Delete the files of clips, and prompts.jsonl with the sheet that shows them, if they are there."""
    (out / PROMPTS).unlink(missing_ok=True)
    (out / "sheet.png").unlink(missing_ok=True)
    for name in names & _names(out):
        (out / f"{name}.json").unlink(missing_ok=True)
        for file in (*sample_files(name, 1), *sample_files(name, 2)):
            (out / file).unlink(missing_ok=True)


def listed_stages(out: Path) -> dict[str, list[str]]:
    """Return the clips that the prompts.jsonl of `generate_cascade` lists, and the stages of each; none without it."""
    try:
        lines = (out / PROMPTS).read_text(encoding="utf-8").split("\n")
        entries = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError):
        return {}
    found: dict[str, list[str]] = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("stages"), dict):
            name = entry.get("name")
            if isinstance(name, str) and NUMBER.fullmatch(name):
                found[name] = [stage for stage in STAGES if stage in entry["stages"]]
    return found


def remove_videos(out: Path, listed: Mapping[str, Iterable[str]], keep: Iterable[Path]) -> int:
    """Delete the videos of earlier clips of a cascade, and return of how many clips something was there.

    Args:
        out: their folder.
        listed: as `listed_stages` returned it.
        keep: the videos of this call.
    """
    kept, touched = set(keep), 0
    for name, stages in listed.items():
        files = [out / f"{name}.mp4", *(out / f"{name}-{stage}.mp4" for stage in stages)]
        gone = [file for file in files if file not in kept and file.is_file()]
        for file in gone:
            file.unlink()
        touched += bool(gone)
    return touched


def _shown_frames(out: Path, name: str, num_frames: int, columns: int) -> np.ndarray | None:
    """Return what a sheet of so many columns shows of a clip on the disk; None, with a warning, if it is damaged."""
    clip, *pictures = (out / file for file in sample_files(name, num_frames))
    file = clip
    try:
        data = clip.read_bytes()
        frames = (
            decode_image(data)[None] if num_frames == 1 else np.stack([*read_frames(data, picked(num_frames, columns))])
        )
        for file in pictures:
            with Image.open(file) as picture:
                picture.load()
    except (DataError, OSError, SyntaxError, ValueError) as error:
        log.warning("%s is damaged (%s): the clip is drawn again", file, error)
        return None
    return reduced(frames, columns)


def _names(out: Path) -> set[str]:
    """Return the names of files up to their first dot."""
    return {path.name.partition(".")[0] for path in out.iterdir()} if out.is_dir() else set()


def _sidecar(path: Path) -> dict[str, Any] | None:
    """Return the values of a JSON file; None if it holds no object that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
