"""A curation in small: stages without media, whose values are known, for tests of what runs and keeps them."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lavie.config.base import Strict
from lavie.curation.stage import Done, Stage
from lavie.curation.table import clip_id
from lavie.curation.unit import Unit
from lavie.data.shards.index_file import Rejected


class ToyConfig(Strict):
    """Settings of the toy stages."""

    factor: int = 1
    pause: float = 0.0


HERE = "tests.curation.toy"


def films(src: Path, names: Sequence[str] = ("a", "b", "c", "d", "e", "f"), size: int = 400_000) -> Path:
    """Make files that stand for films, of different sizes; their content is their name."""
    src.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (src / f"{name}.mp4").write_bytes(name.encode() * (size * (i % 3 + 1)))
    return src


def cut(unit: Unit, config: ToyConfig) -> Done:
    """Three clips of each film; a film that is called bad is refused."""
    time.sleep(config.pause)
    rows: dict[str, list] = {"clip": [], "film": [], "value": []}
    rejected = []
    with unit.partial("clips").open("wb") as tar:
        for film in unit.films:
            if "bad" in film.film:
                rejected.append(Rejected(film.film, "bad", "by its name"))
                continue
            for i in range(3):
                rows["clip"].append(clip_id(film.film, 0, i, i + 1, None))
                rows["film"].append(film.film)
                rows["value"].append(config.factor * (film.bytes + i))
                tar.write(f"{film.film} {i}\n".encode() * config.factor)
    return Done(rows, rejected)


def score(unit: Unit, config: ToyConfig) -> Done:
    """Twice the value of a clip."""
    time.sleep(config.pause)
    table = unit.read("cut", ["clip", "value"])
    return Done({"clip": table["clip"], "score": [config.factor * 2 * v for v in table["value"].to_pylist()]})


def rank(units: Sequence[Unit], config: ToyConfig) -> Iterator[tuple[Unit, Done]]:
    """The place of each clip's score among all that are not above ten million."""
    time.sleep(config.pause)
    tables = [unit.read("score") for unit in units]
    order = sorted({value for table in tables for value in table["score"].to_pylist() if value <= 10_000_000})
    for unit, table in zip(units, tables, strict=True):
        place = [order.index(v) if v in order else None for v in table["score"].to_pylist()]
        yield unit, Done({"clip": table["clip"], "rank": place})


def caption(unit: Unit, config: ToyConfig) -> Done:
    """A caption for each clip that has a place."""
    time.sleep(config.pause)
    table = unit.read("rank")
    places = table["rank"].to_pylist()
    return Done({"clip": table["clip"], "caption": [None if p is None else f"place {p}" for p in places]})


CUT = Stage("cut", 1, ("films",), ToyConfig, {"clip": "string", "film": "string", "value": "int64"}, work=cut)
SCORE = Stage("score", 1, ("cut",), ToyConfig, {"clip": "string", "score": "int64"}, work=score)
RANK = Stage("rank", 1, ("cut", "score"), ToyConfig, {"clip": "string", "rank": "int32"}, whole=rank)
CAPTION = Stage("caption", 1, ("cut", "rank"), ToyConfig, {"clip": "string", "caption": "string"}, work=caption)
STAGES = tuple(f"{HERE}:{name}" for name in ("CUT", "SCORE", "RANK", "CAPTION"))
