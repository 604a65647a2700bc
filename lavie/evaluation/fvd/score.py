"""The Fréchet video distance of two sets of clips, with all that a reader needs to repeat or doubt it."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    sources = {"real": real, "fake": fake}
    readings = {"real": protocol.real, "fake": protocol.fake}
    wanted = {"real": _Set("real", extractor), "fake": _Set("fake", extractor)}
    if shuffled:
        wanted["fake_shuffled"] = _Set("fake", extractor, shuffled=True)
    if frames is not None:
        wanted |= {"real_frames": _Set("real", frames), "fake_frames": _Set("fake", frames)}

    # Everything that is named is looked at before the first clip is measured.
    keys = {
        name: extraction_key(protocol, readings[one.side], one.network, one.shuffled) for name, one in wanted.items()
    }
    there = read_rows(keep) if keep is not None and keep.exists() else {}
    if any(keys.get(name, key) != key for name, (key, _) in there.items()):
        raise DataError(f"--features {keep}: it holds features {OTHERS} than this call: give another file")
    clips = {"real": _clips(real, splits), "fake": _clips(fake, ())}
    rows = {name: _kept_rows(sources[one.side], one.side, name, keys[name]) for name, one in wanted.items()}

    for name, one in wanted.items():
        tell = progress(f"{one.side} clips" + (", shuffled" if one.shuffled else "")) if progress else None
        if some := clips[one.side]:
            reading = readings[one.side]
            new = extract(some, protocol, reading, one.network, keep=keep, shuffled=one.shuffled, moved=tell)
            rows[name].join(new)
        rows[name] = rows[name].by_name()

    a, b = rows["real"], rows["fake"]
    result = _distances(a, b, protocol, preset, extractor)
    result["data"] = {
        side: {
            "sources": [str(path) for path in sources[side]],
            "hash": rows[side].data_hash,
            "dropped": rows[side].dropped,
        }
        for side in sources
    }
    if shuffled:
        result["fvd_shuffled"] = frechet(a.matrix, rows["fake_shuffled"].matrix, protocol.ddof)
    if frames is not None:
        c, d = rows["real_frames"], rows["fake_frames"]
        result["frames"] = {
            "frechet": frechet(c.matrix, d.matrix, protocol.ddof),
            "extractor": {"name": frames.name, "sha256": frames.sha256},
            "n": {"real": len(c.matrix), "fake": len(d.matrix)},
        }
    if keep is not None and is_main():
        write_rows(keep, {name: (keys[name], rows[name]) for name in wanted})
        forget_parts(keep, set(keys.values()))
    return result


class _Set(NamedTuple):
    """A set of rows that is to be made."""

    side: str
    """real or fake."""
    network: Extractor
    shuffled: bool = False
    """Whether the frames of each clip are in random order."""


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
