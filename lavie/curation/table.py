"""Where the files of a curation lie, and how a unit's columns are written and read.

OUT/films.parquet                    the films and their units (`films`)
OUT/table/<stage>/<unit>.parquet     the columns of a stage, one row for each film (scan) or clip (all others)
OUT/table/views.sql                  the same for DuckDB (`views`)
OUT/frames/<unit>.npz                values of every decoded frame
OUT/clips/<unit>.tar                 the clips, read by offset
OUT/rejected/<stage>/<unit>.jsonl    what was refused, with its reason
OUT/partial/                         what is being written now
OUT/cache/                           what is read fast, made of the rest; it may be deleted
"""

import functools
import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.shards.index_file import Rejected
from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

META = b"lavie"
"""The key of a parquet file's metadata under which its `Made` lies, as JSON."""
SIDE = {"frames": ".npz", "clips": ".tar"}
"""Kinds of files that lie beside the columns of a unit, each with its suffix."""


def arrow() -> Any:
    """Return the module pyarrow, with `pyarrow.compute` and `pyarrow.parquet` loaded.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("lavie curate needs pyarrow: pip install 'lavie[curate]'") from None
    return pyarrow


@functools.cache
def arrow_type(text: str) -> "pa.DataType":
    """Return the Arrow type of a column: a name of Arrow's, `list<T>`, `list<T>[N]` or `binary[N]` (N fixed)."""
    pa = arrow()
    kind, _, rest = text.partition("[")
    size = int(rest.rstrip("]")) if rest else -1
    if kind.startswith("list<"):
        return pa.list_(arrow_type(kind[len("list<") : -1]), size)
    if kind == "binary" and rest:
        return pa.binary(size)
    return pa.type_for_alias(kind)


def make_table(columns: "pa.Table | Mapping[str, Sequence[Any]]", types: Mapping[str, str]) -> "pa.Table":
    """Return columns as a table with exactly the given names, types and order.

    Args:
        columns: a table, or a list of values for each name, all of one length; no other names than those of `types`.
        types: the name and the `arrow_type` of each column.
    """
    pa = arrow()
    schema = pa.schema([(name, arrow_type(kind)) for name, kind in types.items()])
    names = set(columns.column_names if isinstance(columns, pa.Table) else columns)
    assert names == set(types), f"columns {sorted(names ^ set(types))} are missing, or nobody has declared them"
    if isinstance(columns, pa.Table):
        return columns.select(list(types)).cast(schema).replace_schema_metadata(None).combine_chunks()
    return pa.table({name: pa.array(columns[name], arrow_type(kind)) for name, kind in types.items()}, schema=schema)


def columns_path(out: Path, stage: str, unit: str) -> Path:
    """Return where the columns of a stage lie for one unit."""
    return out / "table" / stage / f"{unit}.parquet"


def rejected_path(out: Path, stage: str, unit: str) -> Path:
    """Return where the list of what a stage refused of a unit lies; it exists only if there is something."""
    return out / "rejected" / stage / f"{unit}.jsonl"


def read_rejected(path: Path) -> list[Rejected]:
    """Return what a stage refused of a unit; nothing where there is no list.

    Raises:
        DataError: the list is damaged.
    """
    try:
        return [Rejected(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read: {error!r}; remove it and its unit's columns of the stage") from None


def side_path(out: Path, kind: str, unit: str, suffix: str = "") -> Path:
    """Return where a file of a unit lies that is no table: its kind names the folder."""
    return out / kind / f"{unit}{suffix or SIDE[kind]}"


@dataclass(frozen=True)
class Made:
    """What the columns of one unit were made of, and what they hold; the metadata of their file."""

    stage: str
    version: int
    config: dict[str, Any]
    """What of the settings counts (`Stage.identity`)."""
    inputs: dict[str, str]
    """For each thing that was read, the hash of what it held."""
    content: str = ""
    """The hash of these columns, of the files beside them and of the list of what was refused."""
    rows: int = 0
    rejected: int = 0
    """How many films or clips were refused."""

    def of_the_same(self, other: "Made | None") -> bool:
        """Return whether both were made of the same: by the same stage and settings from the same input."""
        mine = (self.stage, self.version, self.config, self.inputs)
        return other is not None and mine == (other.stage, other.version, other.config, other.inputs)


@contextmanager
def naming(path: Path, what: str, remedy: str = "remove it, and what made it makes it again") -> Iterator[None]:
    """Raise DataError, which says what a file is not and what to do, where it cannot be read as parquet.

    What the system says of it, that it is missing or may not be read, is raised as it is.
    """
    try:
        yield
    except (arrow().ArrowException, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: {what} ({' '.join(str(error).split())}); {remedy}") from None


def read_made(path: Path) -> Made | None:
    """Return what the metadata of a file of columns says; None where there is no such file.

    Raises:
        DataError: it is no file of columns.
    """
    try:
        with naming(path, "no columns of a curation", "remove it, and its unit is done again"):
            schema = arrow().parquet.read_schema(path, memory_map=False)
            return Made(**json.loads(schema.metadata[META]))
    except FileNotFoundError:
        return None


def write_table(path: Path, table: "pa.Table", metadata: Mapping[bytes, bytes]) -> None:
    """Write a table as parquet, the same bytes for the same table and metadata."""
    arrow().parquet.write_table(table.replace_schema_metadata(dict(metadata)), path, compression="zstd")


def read_table(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """Return a table, or some of its columns in the given order.

    Raises:
        DataError: the file is missing, or is no such table.
    """
    try:
        with naming(path, "no table"):
            file = arrow().parquet.ParquetFile(path, memory_map=False)
            if columns is not None and (missing := [name for name in columns if name not in file.schema_arrow.names]):
                raise DataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}")
            return file.read(None if columns is None else list(columns)).replace_schema_metadata(None)
    except FileNotFoundError:
        raise DataError(f"{path}: missing: the stage of this name is not done for this unit") from None


def content_hash(table: "pa.Table", files: Sequence[tuple[str, str]] = ()) -> str:
    """Return a hash of the values of a table and of named files, 64 hexadecimal digits.

    Args:
        table: its names, types and values count, not how they lie in chunks.
        files: the name and the SHA-256 of each file.
    """
    pa = arrow()
    digest = hashlib.sha256(json.dumps(list(files)).encode())

    class Sink:
        """A file that hashes what is written to it."""

        closed = False

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(memoryview(data))

        def flush(self) -> None:
            """Do nothing: there is no buffer."""

        def close(self) -> None:
            """Do nothing: the digest is read by the function."""

    with pa.ipc.new_stream(pa.PythonFile(Sink(), "w"), table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return digest.hexdigest()


def text_hash(*parts: Any) -> str:
    """Return a hash of what JSON can hold, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def clip_id(film_sha256: str, stream: int, start: int, end: int, crop: Sequence[int] | None) -> str:
    """Return the name of a clip: 16 hexadecimal digits that depend on its film's content and on its frames alone.

    Args:
        film_sha256: of the film's bytes, 64 hexadecimal digits.
        stream: the number of the video stream.
        start: the first decoded frame.
        end: the frame behind the last one.
        crop: x, y, width and height in pixels, or None for the whole picture.
    """
    content = json.dumps([film_sha256, stream, start, end, None if crop is None else list(crop)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def save_arrays(path: Path, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write arrays by film and name as .npz, the same bytes for the same arrays."""
    flat = {f"{i}.{name}": array for i, film in enumerate(arrays.values()) for name, array in film.items()}
    films = np.frombuffer(json.dumps(list(arrays)).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez(file, films=films, **flat)  # type: ignore[arg-type]


class Frames(Mapping[str, Mapping[str, np.ndarray]]):
    """The arrays of a unit by film and name, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Open a file of `save_arrays`.

        Raises:
            DataError: it is missing or damaged, here or when the arrays of a film are read.
        """
        self._path = path
        with self._named():
            self._file = np.load(path, allow_pickle=False)
            self._films = {film: i for i, film in enumerate(json.loads(self._file["films"].tobytes()))}

    def __getitem__(self, film: str) -> dict[str, np.ndarray]:
        """Return all arrays of one film."""
        head = f"{self._films[film]}."
        names = [name for name in self._file.files if name.startswith(head)]
        with self._named():
            return {name.removeprefix(head): self._file[name] for name in names}

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Raise DataError with the file's name where it cannot be read."""
        remedy = "and `lavie curate scan` makes it again"
        try:
            yield
        except FileNotFoundError:
            raise DataError(f"{self._path}: missing: {remedy.removeprefix('and ')}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self._path}: damaged: {error}; remove it, {remedy}") from None

    def __iter__(self) -> Any:
        """Iterate over the films, in their order."""
        return iter(self._films)

    def __len__(self) -> int:
        """Return the number of films."""
        return len(self._films)
