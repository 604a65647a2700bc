"""A curation up to its clips, without a film: what tests render stands where `scan` and `cut` leave their results.

For tests of the stages that come after `cut`. The columns are those of the real stages; the clips are real files.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lavie.curation.cut.stage import CUT
from lavie.curation.films import films_hash, list_films, read_films
from lavie.curation.partial import partial_folder
from lavie.curation.perform import commit
from lavie.curation.scan.arrays import NAMES, WIDTH, FrameValues
from lavie.curation.scan.stage import FROZEN, SCAN
from lavie.curation.stage import Done, made
from lavie.curation.table import Made, clip_id, save_arrays
from lavie.curation.unit import Unit, units_of
from tests.data.media.videos import encode

FPS = 8.0
"""The frame rate of all clips."""
BLOCK = 512
"""Bytes that a tar is made of."""


@dataclass(frozen=True)
class MadeClip:
    """A clip as a test wants it."""

    frames: np.ndarray
    """uint8 (F, H, W, 3), RGB; H and W even."""
    data: bytes | None = None
    """Its file, where it is not the encoded frames."""
    options: Mapping[str, str] = field(default_factory=lambda: {"crf": "12", "preset": "ultrafast"})
    """x264's."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Columns of `cut` whose values are not those of the frames, as a height of 1080."""


def moving(seed: int, count: int = 16, height: int = 72, width: int = 128, step: int = 2) -> np.ndarray:
    """Return a smooth random picture that moves to the left: uint8 (count, height, width, 3).

    Args:
        seed: another one gives another picture.
        count: of frames.
        height: pixels, even.
        width: likewise.
        step: pixels from frame to frame; 0 for a still.
    """
    size = height, width + step * (count - 1)
    noise = np.fft.rfft2(np.random.default_rng(seed).normal(size=(3, *size)))
    falls = np.exp(-(np.fft.fftfreq(size[0])[:, None] ** 2 + np.fft.rfftfreq(size[1]) ** 2) / 0.004)
    smooth = np.fft.irfft2(noise * falls, size)
    picture = (128 + 45 * smooth / smooth.std()).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.stack([picture[:, step * t : step * t + width] for t in range(count)])


def make_cut(
    root: Path,
    films: Mapping[str, Sequence[np.ndarray | MadeClip]],
    *,
    films_a_unit: int = 2,
    measured: bool = False,
) -> Path:
    """Make the list of films, and what `scan` and `cut` make of them; return the folder of the curation, root/out.

    Args:
        root: an empty folder.
        films: for each film, by its path as "cats/a.mp4", its clips, one behind another from frame 0 on.
        films_a_unit: how many films, in the order of their paths, make a unit.
        measured: whether the frames of the films are measured (needs OpenCV); if not, `scan` has no values of frames.
    """
    src, out = root / "films", root / "out"
    for name in films:
        (src / name).parent.mkdir(parents=True, exist_ok=True)
        (src / name).write_bytes(name.encode())  # nobody reads the film, but its clips
    list_films(src, out, lambda path: 1.0, films_a_unit)
    for unit in made_units(out):
        clips = {film.film: [_made(clip) for clip in films[film.film]] for film in unit.films}
        with partial_folder(out, "made") as folder:
            unit.folder = folder
            sources = {"films": films_hash(unit.films)}
            commit(SCAN, unit, _scan(unit, clips, measured), Made("scan", SCAN.version, {}, sources))
            found = made(out, "scan", unit.name)
            assert found is not None
            commit(CUT, unit, _cut(unit, clips), Made("cut", CUT.version, {}, sources | {"scan": found.content}))
    return out


def made_units(out: Path) -> list[Unit]:
    """Return the units of a curation; a stage's `work` takes one of them, where it writes nothing but columns."""
    return units_of(out, read_films(out))


def _made(clip: np.ndarray | MadeClip) -> MadeClip:
    """Return a clip with its file."""
    clip = MadeClip(clip) if isinstance(clip, np.ndarray) else clip
    return clip if clip.data is not None else replace(clip, data=encode(clip.frames, options=dict(clip.options)))


def _category(film: str) -> str | None:
    """Return the first folder of a film's path, if it has one."""
    return film.partition("/")[0] if "/" in film else None


def _scan(unit: Unit, clips: Mapping[str, Sequence[MadeClip]], measured: bool) -> Done:
    """Return what the scan would have made of a unit; what nobody measured is null."""
    arrays, rows = {}, []
    for film, own in clips.items():
        frames = [frame for clip in own for frame in clip.frames]
        arrays[film] = _values(frames) if measured else {}
        height, width = frames[0].shape[:2]
        row = dict.fromkeys(SCAN.columns) | {
            "film": film,
            "category": _category(film),
            "sha256": hashlib.sha256(film.encode()).hexdigest(),
            "bytes": len(film),
            "stream": 0,
            "other_streams": [],
            "codec": "h264",
            "width": width,
            "height": height,
            "fps": FPS,
            "vfr": False,
            "frames": len(frames),
            "duration": len(frames) / FPS,
            "audio": False,
            "notes": [],
        }
        if measured:
            steps = arrays[film]["step"][1:]
            row |= {
                "luma": float(arrays[film]["luma"].mean(dtype=np.float64)),
                "frozen": float((steps < FROZEN).mean()),
            }
        rows.append(row)
    save_arrays(unit.partial("frames"), arrays)
    return Done({name: [row[name] for row in rows] for name in SCAN.columns})


def _values(frames: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the values of frames as the scan keeps them."""
    import cv2

    values = FrameValues()
    height, width = frames[0].shape[:2]
    size = WIDTH, round(WIDTH * height / width)
    rows = [values.measure(cv2.resize(frame, size, interpolation=cv2.INTER_AREA)) for frame in frames]
    table = np.array(rows).astype(np.float16)
    arrays = {name: table[:, i] for i, name in enumerate(NAMES)}
    return arrays | {"pts": np.arange(len(rows)), "time": np.arange(len(rows)) / FPS}


def _cut(unit: Unit, clips: Mapping[str, Sequence[MadeClip]]) -> Done:
    """Write the clips of a unit one behind another as a tar, and return their columns."""
    import tarfile

    rows = []
    with unit.partial("clips").open("wb") as tar:
        for film, own in clips.items():
            start = 0
            for clip in own:
                assert clip.data is not None
                count, height, width = clip.frames.shape[:3]
                end = start + count
                name = clip_id(hashlib.sha256(film.encode()).hexdigest(), 0, start, end, None)
                member = tarfile.TarInfo(f"{name}.mp4")
                member.size = len(clip.data)
                tar.write(member.tobuf(tarfile.USTAR_FORMAT))
                row = {
                    "clip": name,
                    "film": film,
                    "category": _category(film),
                    "stream": 0,
                    "start": start,
                    "end": end,
                    "t0": start / FPS,
                    "t1": end / FPS,
                    "frames": count,
                    "fps": FPS,
                    "vfr": False,
                    "duration": count / FPS,
                    "width": width,
                    "height": height,
                    "crop": None,
                    "method": "encode",
                    "why": ["made by a test"],
                    "format": "mp4",
                    "codec": "h264",
                    "audio": False,
                    "offset": tar.tell(),
                    "bytes": len(clip.data),
                    "sha256": hashlib.sha256(clip.data).hexdigest(),
                    "notes": [],
                    "remarks": [],
                }
                rows.append(row | dict(clip.row))
                tar.write(clip.data + bytes(-len(clip.data) % BLOCK))
                start = end
        tar.write(bytes(2 * BLOCK))
    return Done({name: [row[name] for row in rows] for name in CUT.columns})
