"""The films of a curation and the units that they are worked on in: OUT/films.parquet.

A unit is made once, of films that were new together, and is never changed: films that come later make new units. So
what is done stays done. A film whose bytes changed keeps its unit, which is then out of date; one that is gone keeps
its row, for its clips have been cut or are refused by name.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

from ..data.prepare.captioned_file import Passed
from ..data.prepare.walk import walk
from ..data.shards.index_file import Rejected
from ..errors import ConfigError, DataError
from ..files import replacing, sha256_of
from .table import make_table, naming, text_hash, write_table

UNIT_SECONDS = 90 * 60.0
"""Most seconds of film in a unit: minutes of work for one core, so that a lost one costs little and few files are made.
A film that is longer is a unit alone."""
LEAST_UNIT_SECONDS, MANY_UNITS = 60.0, 64
"""The shortest unit, seconds, and about how many units short films make, so that all cores have work."""
BYTES_A_SECOND = 250_000
"""What stands for a film's duration where its header tells none: 2 Mbit/s."""
SUFFIXES = frozenset(
    ["3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogv", "ts"]
) | {"vob", "webm", "wmv"}
"""What the names of films end in, in lower case and without the dot."""
SRC = b"src"
"""The key of the list's metadata under which the source lies."""


@dataclass(frozen=True)
class Film:
    """One film of the source."""

    unit: str
    """The name of its unit, six digits."""
    film: str
    """Its path relative to the source, with /."""
    bytes: int
    mtime_ns: int
    """When it was written, nanoseconds since 1970: with the size, what tells a changed film."""
    seconds: float
    """Its duration by its header; where that says nothing, an estimate by its size."""

    TYPES: ClassVar[dict[str, str]] = {
        "unit": "string",
        "film": "string",
        "bytes": "int64",
        "mtime_ns": "int64",
        "seconds": "double",
    }


@dataclass(frozen=True)
class FilmList:
    """All films of a curation, in the order of their units and, within one, of their paths."""

    src: Path
    films: tuple[Film, ...]

    @property
    def units(self) -> dict[str, tuple[Film, ...]]:
        """The films of each unit, by its name."""
        found: dict[str, list[Film]] = {}
        for film in self.films:
            found.setdefault(film.unit, []).append(film)
        return {name: tuple(films) for name, films in found.items()}


@dataclass(frozen=True)
class Listed:
    """What came of looking for films."""

    list: FilmList
    new: int
    changed: tuple[str, ...]
    """Films whose bytes were written anew since: their units are done again."""
    gone: tuple[str, ...]
    """Films that are no longer in the source; what was made of them stays."""
    rejected: tuple[Rejected, ...]
    """What could not be looked at: broken links, folders without permission."""
    passed: Counter[str]
    """Files that are no films, by what they are counted as."""


def films_hash(films: Sequence[Film]) -> str:
    """Return a hash of what is known of a unit's films without reading them."""
    return text_hash([[film.film, film.bytes, film.mtime_ns] for film in films])


def text_beside(src: Path, film: str) -> Path:
    """Return where the text of a film lies, if it has one: a.txt beside a.mp4."""
    return (src / film).with_suffix(".txt")


def texts_hash(src: Path, films: Sequence[Film]) -> str:
    """Return a hash of the texts beside some films."""
    paths = [text_beside(src, film.film) for film in films]
    return text_hash([sha256_of(path) if path.is_file() else None for path in paths])


def read_films(out: Path) -> FilmList:
    """Return the list of a curation.

    Raises:
        ConfigError: there is none.
        DataError: it is damaged.
    """
    from .table import arrow

    path = out / "films.parquet"
    if not path.is_file():
        raise ConfigError(f"OUT {out}: no films.parquet: `lavie curate scan SRC {out}` comes first")
    remedy = f"remove it, and `lavie curate scan SRC {out}` lists the films again, in new units"
    with naming(path, "no list of films", remedy):
        src = arrow().parquet.read_schema(path).metadata[SRC]
        rows = arrow().parquet.ParquetFile(path).read([field.name for field in fields(Film)]).to_pylist()
        return FilmList(Path(src.decode("utf-8", "surrogateescape")), tuple(Film(**row) for row in rows))


def list_films(
    src: Path,
    out: Path,
    seconds_of: Callable[[Path], float | None],
    unit_seconds: float | None = None,
) -> Listed:
    """Look for the films below a folder, make units of the new ones, and write the list.

    Args:
        src: the source, a folder.
        out: the folder of the curation, made if need be.
        seconds_of: a function that returns a film's duration by its header, None where it tells none; it is called for
            new and changed films alone.
        unit_seconds: seconds of film after which a unit is closed. Default: a share of the new films, between
            LEAST_UNIT_SECONDS and UNIT_SECONDS.

    Raises:
        ConfigError: `src` is no folder or has no film, or `out` holds the films of another one.
    """
    if not src.is_dir():
        raise ConfigError(f"SRC {src}: no such folder")
    src, out = src.resolve(), out.resolve()
    if src == out or src.is_relative_to(out):
        raise ConfigError(f"SRC {src} lies in OUT {out}: the clips made there would be the films of the next call")
    before = read_films(out) if (out / "films.parquet").is_file() else None
    old = {film.film: film for film in before.films} if before else {}
    if before and old and before.src != src and not any((src / film).is_file() for film in old):
        raise ConfigError(f"OUT {out} holds the films of {before.src}, and none of them is in {src}")

    # What there is now, beside what is known.
    found: list[Film] = []
    rejected: list[Rejected] = []
    passed: Counter[str] = Counter()
    for entry in walk(src):
        if isinstance(entry, Rejected):
            rejected.append(entry)
        elif isinstance(entry, Passed):
            passed[entry.what] += 1
        elif out in entry.resolve().parents:
            continue
        elif (suffix := entry.suffix.lower().removeprefix(".")) not in SUFFIXES:
            passed[f"no film: .{suffix}" if suffix else "no film: a name without a suffix"] += 1
        else:
            facts = entry.stat()
            found.append(Film("", entry.relative_to(src).as_posix(), facts.st_size, facts.st_mtime_ns, 0.0))
    if not found and before is None:
        what = ", ".join(f"{count} times {kind}" for kind, count in sorted(passed.items()))
        what = what or ", ".join(f"{item.name}: {item.reason}" for item in rejected[:3]) or "it is empty"
        raise ConfigError(f"SRC {src} has no film ({what}): wanted files that end in .{', .'.join(sorted(SUFFIXES))}")
    now = {film.film: film for film in found}
    new = [film for film in found if film.film not in old]
    changed = [name for name in now.keys() & old.keys() if not _same(now[name], old[name])]

    def measured(film: Film) -> Film:
        seconds = None
        with contextlib.suppress(DataError, OSError):  # whatever is wrong with it, the scan finds and names it
            seconds = seconds_of(src / film.film)
        return replace(film, seconds=film.bytes / BYTES_A_SECOND if seconds is None else seconds)

    # Old units stay as they are; new ones are filled in the order of paths.
    for name in changed:
        old[name] = replace(measured(now[name]), unit=old[name].unit)
    kept = list(old.values())
    number, filled = 1 + max((int(film.unit) for film in kept), default=-1), 0.0
    new = [measured(film) for film in new]
    if unit_seconds is None:
        share = sum(film.seconds for film in new) / MANY_UNITS
        unit_seconds = min(max(share, LEAST_UNIT_SECONDS), UNIT_SECONDS)
    for film in new:
        if filled and filled + film.seconds > unit_seconds:
            number, filled = number + 1, 0.0
        kept.append(replace(film, unit=f"{number:06d}"))
        filled += max(film.seconds, 1e-9)
    result = FilmList(src, tuple(kept))
    if result != before:  # so that the file's time of writing tells of changes
        _write(out, result)
    gone = tuple(name for name in old if name not in now)
    return Listed(result, len(new), tuple(sorted(changed)), gone, tuple(rejected), passed)


def _same(a: Film, b: Film) -> bool:
    """Return whether two looks at a film saw the same file."""
    return (a.bytes, a.mtime_ns) == (b.bytes, b.mtime_ns)


def _write(out: Path, films: FilmList) -> None:
    """Write the list."""
    path = out / "films.parquet"
    out.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(Film)]
    rows = [asdict(film) for film in films.films]
    table = make_table({name: [row[name] for row in rows] for name in names}, Film.TYPES)
    with replacing(path) as partial:
        write_table(partial, table, {SRC: str(films.src).encode("utf-8", "surrogateescape")})
