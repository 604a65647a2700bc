"""What an earlier call of `generate` has left in a folder: numbered clips, each with a JSON file that says what it is.

The JSON file of a clip is written before its other files, and prompts.jsonl behind those of all clips. So a clip is
there when all its files are, and a folder without prompts.jsonl is one of a call that was cut short.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.media.decode import read_frames
from ..data.media.image import decode_image
from ..errors import ConfigError
from ..run_folder import PROMPTS
from .contact_sheet import picked
from .video_io import sample_files

Sidecars = Mapping[str, Mapping[str, Any]]
"""By the name that a clip's files begin with: the values of its JSON file, of which `num_frames` is one."""


def kept_clips(out: Path, sidecars: Sidecars, *, comparable: bool) -> set[str]:
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
    kept = set()
    for name in sorted(lying):
        found, wanted = _sidecar(out / f"{name}.json"), sidecars[name]
        if found is None:
            raise ConfigError(f"{out} holds {name}, and no {name}.json says what it was made of: {either}")
        if found != wanted:
            keys = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            raise ConfigError(f"{out} holds samples of another {' and '.join(keys)}, as {name}: {either}")
        if all((out / file).is_file() for file in sample_files(name, wanted["num_frames"])):
            kept.add(name)
    return kept


def remove_clips(out: Path, names: set[str]) -> None:
    """Delete the files of clips, and prompts.jsonl with the sheet that shows them, if they are there."""
    (out / PROMPTS).unlink(missing_ok=True)
    (out / "sheet.png").unlink(missing_ok=True)
    for name in names & _names(out):
        (out / f"{name}.json").unlink(missing_ok=True)
        for file in (*sample_files(name, 1), *sample_files(name, 2)):
            (out / file).unlink(missing_ok=True)


def shown_frames(out: Path, name: str, num_frames: int, columns: int) -> np.ndarray:
    """Return the frames of a clip on the disk that a sheet of so many columns shows, uint8 (F, H, W, 3)."""
    data = (out / sample_files(name, num_frames)[0]).read_bytes()
    if num_frames == 1:
        return decode_image(data)[None]
    return np.stack([*read_frames(data, picked(num_frames, columns))])


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
