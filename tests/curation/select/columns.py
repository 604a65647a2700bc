"""A curation whose columns a test writes by hand: stages without films or work, put in the place of the real ones."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lavie.config.base import Strict
from lavie.curation import stage as stages
from lavie.curation.films import films_hash, list_films, read_films
from lavie.curation.partial import partial_folder
from lavie.curation.perform import commit
from lavie.curation.stage import Done, Stage, made
from lavie.curation.table import Made
from lavie.curation.unit import units_of

CLIP = {"clip": "string"}
CUT_COLUMNS = CLIP | {
    "film": "string",
    "category": "string",
    "frames": "int32",
    "fps": "double",
    "duration": "double",
    "width": "int32",
    "height": "int32",
    "method": "string",
    "bytes": "int64",
    "crop": "list<int32>",
}
MOTION = CLIP | dict.fromkeys(("luma", "frozen", "flow_mean"), "float")
HASH = CLIP | {"phash": "list<uint64>", "overlay_area": "float", "overlay": "bool"}
CAPTION = CLIP | {"caption_raw": "string", "caption": "string", "words": "int32", "captioner": "string"}

CUT = Stage("cut", 1, ("films",), Strict, CUT_COLUMNS)
MOVES = Stage("motion", 1, ("cut",), Strict, MOTION)
MARKS = Stage("hash", 1, ("cut",), Strict, HASH)
TEXT = Stage("text", 1, ("cut",), Strict, CLIP | {"text_area": "float"})
TOWER = Stage("clip", 1, ("cut",), Strict, CLIP | {"aesthetic_mean": "float", "aesthetic_min": "float"})
ALIKE = Stage("dedup", 1, ("hash",), Strict, CLIP | {"duplicate_of": "string"})
WORDS = Stage("caption", 1, ("cut", "motion"), Strict, CAPTION)
ALIGN = Stage("align", 1, ("cut", "caption"), Strict, CLIP | {"clip_score": "float"})
ALL = {found.name: found for found in (CUT, MOVES, MARKS, TEXT, TOWER, ALIKE, WORDS, ALIGN)}
PLACES = ("CUT", "MOVES", "MARKS", "TEXT", "TOWER", "ALIKE", "WORDS", "ALIGN")


@contextmanager
def in_place() -> Iterator[None]:
    """Put these stages in the place of the real ones until the block ends."""
    real = {name: place for name, place in stages.STAGES.items() if name != "scan"}
    places = {stage: f"{__name__}:{name}" for stage, name in zip(ALL, PLACES, strict=True)}
    _exchange(real, places)
    try:
        yield
    finally:
        _exchange(places, real)


def _exchange(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Take stages out of the list, and others in."""
    for name in old:
        del stages.STAGES[name]
    stages.STAGES.update(new)
    stages.find_stage.cache_clear()


def list_units(root: Path, count: int) -> Path:
    """Make a list of films, one in each unit, and return the folder of the curation."""
    (root / "films").mkdir()
    for i in range(count):
        (root / f"films/{i}.mp4").write_bytes(bytes([i]))
    list_films(root / "films", root / "out", lambda path: 1.0, 1.0)
    return root / "out"


def write(out: Path, unit: int, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the columns of a stage for a unit as if they had been made of what is there; what a row lacks is null."""
    found, one = ALL[stage], units_of(out, read_films(out))[unit]
    inputs = {}
    for name in found.reads:
        earlier = made(out, name, one.name)
        inputs[name] = films_hash(one.films) if name == "films" else "" if earlier is None else earlier.content
    with partial_folder(out, "made") as folder:
        one.folder = folder
        columns = {name: [row.get(name) for row in rows] for name in found.columns}
        commit(found, one, Done(columns), Made(stage, 1, {}, inputs))


def clip(name: str, **values) -> dict:
    """A clip of 36 seconds, a hundredth of an hour, that all default rules keep, but for the given values."""
    row = dict(clip=name, film="0.mp4", category="cats", frames=100, fps=25.0, duration=36.0, width=1280, height=720)
    row |= dict(method="copy", bytes=10, luma=100.0, frozen=0.0, flow_mean=0.01, overlay=False, overlay_area=0.0)
    row |= dict(text_area=0.0, aesthetic_mean=5.0, aesthetic_min=4.5, clip_score=0.3)
    return row | dict(caption=f"this is {name}", words=3) | values


FIRST = [
    clip("a"),
    clip("b", frames=15, luma=1.0),
    clip("c", width=719, height=400, duration=72.0),
    clip("d", width=800, height=800, overlay=None),
    clip("e", luma=236.0, words=None, caption=None, clip_score=None),
]
SECOND = [
    clip("f", film="1.mp4", overlay=None),
    clip("g", film="1.mp4", overlay=True, words=None, caption=None, clip_score=None),
    clip("h", film="1.mp4", duplicate_of="a"),
    clip("i", film="1.mp4", words=2, clip_score=0.1),
    clip("j", film="1.mp4", words=None, caption=None, clip_score=None),
    clip("k", film="1.mp4", clip_score=float("nan"), category="dogs"),
]
"""The clips of two units, of which a and f pass the default rules."""
