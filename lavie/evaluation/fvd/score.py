"""The Fréchet video distance of two sets of clips, with all that a reader needs to repeat or doubt it."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...distributed import is_main
from ...errors import DataError
from ..clip_source import Clip, find_clips, require_utf8
from ..measured import interval
from ..ucf101 import listed_clips
from .distance import extrapolate, frechet, mmd, spread
from .extractors import Extractor
from .features import extract, extraction_key
from .protocol import Protocol
from .rows import Moved, Rows, forget_parts, read_rows, write_rows

FEW = 256
"""Below so many clips a note says that the number is mostly bias."""
OTHERS = "of another preset, number of frames, seed or weights"
"""What tells features apart, in messages."""
Progress = Callable[[str], Moved]
"""Gives a function of the clips done and of all, for what is being done."""


def fvd(
    real: Sequence[Path],
    fake: Sequence[Path],
    protocol: Protocol,
    extractor: Extractor,
    *,
    preset: str,
    frames: Extractor | None = None,
    shuffled: bool = False,
    splits: Sequence[Path] = (),
    keep: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the distance as a result (see `measured`); with several ranks, all call this.

    Args:
        real: sources of clips (see `find_clips`), or files of features that earlier calls wrote.
        fake: the same.
        protocol: how clips become features.
        extractor: of clips.
        preset: the protocol's name.
        frames: an extractor of frames, for the Fréchet distance of single frames beside that of clips.
        shuffled: also measure the fakes with their frames in random order. Where that does not rise, the distance has
            seen no motion.
        splits: lists of the real clips that count, of all in the one folder `real` (see `listed_clips`).
        keep: the file that the features go to. One that is there must hold features of this protocol and extractor.
        progress: tells of the work.

    Raises:
        DataError: a source is missing, too few clips can be used, or features are of another protocol.
    """
    sides = {"real": (real, protocol.real), "fake": (fake, protocol.fake)}
    made: dict[str, tuple[str, Rows]] = {}

    kept = read_rows(keep) if keep is not None and keep.exists() else {}

    def rows(name: str, side: str, network: Extractor, shuffle: bool = False) -> Rows:
        """Return the rows of one side, and note them for the file."""
        sources, reading = sides[side]
        key = extraction_key(protocol, reading, network, shuffle)
        if name in kept and kept[name][0] != key:
            raise DataError(f"--features {keep}: it holds features {OTHERS} than this call: give another file")
        tell = progress(f"{side} clips" + (", shuffled" if shuffle else "")) if progress else None
        found = _kept_rows(sources, side, name, key)
        if clips := _clips(sources, splits if side == "real" else ()):
            found.join(extract(clips, protocol, reading, network, keep=keep, shuffled=shuffle, moved=tell))
        made[name] = key, found.by_name()
        return made[name][1]

    a, b = rows("real", "real", extractor), rows("fake", "fake", extractor)
    result = _distances(a, b, protocol, preset, extractor)
    result["data"] = {
        side: {"sources": [str(path) for path in sides[side][0]], "hash": set_.data_hash, "dropped": set_.dropped}
        for side, set_ in (("real", a), ("fake", b))
    }
    if shuffled:
        c = rows("fake_shuffled", "fake", extractor, shuffle=True)
        result["fvd_shuffled"] = frechet(a.matrix, c.matrix, protocol.ddof)
    if frames is not None:
        c, d = rows("real_frames", "real", frames), rows("fake_frames", "fake", frames)
        result["frames"] = {
            "frechet": frechet(c.matrix, d.matrix, protocol.ddof),
            "extractor": {"name": frames.name, "sha256": frames.sha256},
            "n": {"real": len(c.matrix), "fake": len(d.matrix)},
        }
    if keep is not None and is_main():
        write_rows(keep, made)
        forget_parts(keep, {key for key, _ in made.values()})
    return result


def _kept_rows(sources: Sequence[Path], side: str, name: str, key: str) -> Rows:
    """Return the rows of those sources of a side that are files of features."""
    found = Rows()
    for path in filter(_holds_features, sources):
        sets = read_rows(path)
        if name not in sets:
            raise DataError(f"--{side} {path}: it holds {', '.join(sets)}, and no {name}")
        if sets[name][0] != key:
            raise DataError(f"--{side} {path}: its features are {OTHERS} than this call")
        found.join(sets[name][1])
    return found


def _clips(sources: Sequence[Path], splits: Sequence[Path]) -> list[Clip]:
    """Return the clips of the sources of a side that are no files of features."""
    folders = [path for path in sources if not _holds_features(path)]
    if splits:
        if len(folders) != 1:
            raise DataError(f"--split lists clips of one folder, --real names {len(folders)}")
        return listed_clips(folders[0], splits)
    if len(folders) == 1:
        return find_clips(folders[0])
    clips: dict[str, Clip] = {}
    for path in folders:
        for clip in find_clips(path):
            clip.name = require_utf8(f"{path.resolve().name}/{clip.name}", path)
            if clip.name in clips:
                raise DataError(f"{path}: another source has {clip.name} too: give each folder once, by its own name")
            clips[clip.name] = clip
    return list(clips.values())


def _holds_features(path: Path) -> bool:
    """Return whether a source is a file of features."""
    return path.suffix == ".safetensors"


def _distances(a: Rows, b: Rows, protocol: Protocol, preset: str, extractor: Extractor) -> dict[str, Any]:
    """Return the distances between the rows of reals and of fakes, and what they were measured by."""
    real, fake = a.matrix, b.matrix

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        """The Fréchet distance by this protocol's covariance."""
        return frechet(x, y, protocol.ddof)

    result: dict[str, Any] = {
        "metric": "fvd",
        "value": distance(real, fake),
        "n": {"real": len(real), "fake": len(fake)},
    }
    result["fvd"] = result["value"]
    notes = list(protocol.notes)
    if min(len(real), len(fake)) >= 8:
        around = spread(distance, real, fake, protocol.seed)
        line = extrapolate(distance, real, fake, protocol.seed)
        kernel = spread(mmd, real, fake, protocol.seed)
        result |= {
            "standard_error": around.error,
            "interval": interval(around.value, around.error),
            "sizes": [{"real": n, "fake": m, "fvd": value} for n, m, value in line.sizes],
            "extrapolated": line.value,
            "kvd": kernel.value,
            "kvd_interval": interval(kernel.value, kernel.error),
            "halves": around.halves,
        }
    else:
        notes.append(f"{len(real)} real and {len(fake)} fake clips: an interval and a line in 1 / n need 8 of each")
        result |= {"interval": None, "extrapolated": None, "kvd": mmd(real, fake)}
    if min(len(real), len(fake)) < FEW:
        notes.append(f"with fewer than {FEW} clips most of the number is bias: compare equal numbers of clips only")
    for side, rows in (("real", a), ("fake", b)):
        if rows.dropped:
            notes.append(f"{len(rows.dropped)} {side} clips left out, see data.{side}.dropped")
    weights = {"name": extractor.name, "sha256": extractor.sha256}
    whole = hashlib.sha256(f"{protocol.hash} {extractor.name} {extractor.sha256}".encode()).hexdigest()[:16]
    return result | {
        "preset": preset,
        "protocol": protocol.model_dump(mode="json", exclude={"notes"}),
        "protocol_hash": whole,
        "weights": weights,
        "notes": notes,
    }
