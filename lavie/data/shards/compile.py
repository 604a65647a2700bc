"""The table of a dataset: made from the indices of its shards when it is missing or stale.

Small datasets are compiled in memory. The table of a large one lies beside its shards as `index.table`, or, where that
folder cannot be written, in the user's cache. It is written whole or not at all, by one process of a node at a time.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import DataError
from ...files import replacing
from .index_file import SUFFIX, Header, Sample, index_path, read_header, read_index, remedy
from .remote import is_url, redact
from .remote_index import fetched, remote_shards
from .table import ROW, Part, Table, TableWriter

IN_MEMORY = 1 << 16
"""Datasets of at most so many samples have no file: they take a second to compile."""
CHUNK = 1 << 14
"""Samples that are compiled at a time."""


@dataclass(frozen=True)
class _Shard:
    """A shard that was found, with its index."""

    tar: Path | str
    """A URL where it is remote."""
    index: Path
    size: int
    """Of the tar."""
    source: list[Any]
    """What a table must have been made from to be fresh: the name of the tar first."""
    url: str | None = None
    """Of the index, where it was fetched."""


def compiled(path: str, remote: bool = False) -> Table:
    """The table of a folder of shards, a folder of indices, or a single tar; with `remote`, of a URL of such too."""
    if is_url(path):
        if not remote:
            raise DataError(
                f"{redact(path)}: only local paths are read, never commands, and URLs only with data.remote=true: set "
                "it, or copy or mount the dataset"
            )
        try:
            folder, shards = _fetched(path)
        except OSError as error:  # of the store, or of the cache
            raise DataError(f"data.train or data.validation: {error}") from None
        return _table([_cached(path)], folder, shards)
    local, shards = _shards(Path(path))
    name = "index.table" if Path(path).is_dir() else f"{Path(path).stem}.index.table"
    return _table([local / name, _cached(str((local / name).resolve()))], local, shards)


def _table(places: Sequence[Path], folder: Path | str, shards: list[_Shard]) -> Table:
    """The table at the first of the places that it is at or can be written to."""
    sources = [shard.source for shard in shards]
    if fresh := _fresh(places, folder, sources):
        return fresh
    headers = [_checked_header(shard) for shard in shards]
    if sum(h.videos + h.images for h in headers) <= IN_MEMORY:
        buffer = BytesIO()
        _compile(buffer, shards, headers)
        return Table(buffer.getvalue(), folder)
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with _one_of_the_node(place.parent):
                if fresh := _fresh([place], folder, sources):
                    return fresh
                with replacing(place) as partial, partial.open("wb") as file:
                    _compile(file, shards, headers)
                return Table(place, folder)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or place == places[-1]:
                raise DataError(
                    f"table {place}: cannot be written: {error}. XDG_CACHE_HOME names another folder"
                ) from None
    raise AssertionError("one of the places is taken or has raised")


def in_memory(samples: Sequence[Sample]) -> list[Part]:
    """Tables of some samples, one part for each kind."""
    file = BytesIO()
    videos = sum(s.kind == "video" for s in samples)
    writer = TableWriter(file, videos, len(samples) - videos)
    shards = list(dict.fromkeys(s.shard for s in samples))
    number = {shard: i for i, shard in enumerate(shards)}
    _add(writer, ((number[s.shard], asdict(s)) for s in samples))
    writer.close(shards, None)
    table = Table(file.getvalue(), Path())
    return [Part(table, "video"), Part(table, "image")]


def _fetched(url: str) -> tuple[str, list[_Shard]]:
    """The URL of the folder that a table of `url` belongs to, and its shards, whose indices are in the cache now."""
    folder, pairs = remote_shards(url)
    cache = _cache() / "indices"
    cache.mkdir(parents=True, exist_ok=True)
    with _one_of_the_node(cache):
        indices = fetched([index for _, index in pairs], cache)
    return folder, [
        _Shard(tar.url, path, tar.size, [tar.url.rpartition("/")[2], tar.size, index.size, path.name], index.url)
        for (tar, index), path in zip(pairs, indices, strict=True)
    ]


def _shards(path: Path) -> tuple[Path, list[_Shard]]:
    """The folder that a table of `path` belongs to, and its shards."""
    if path.is_file() and path.suffix == ".tar":
        return path.parent, [_local(path, index_path(path))]
    if not path.is_dir():
        what = "no folder of shards and no .tar file" if path.exists() else "no such file or folder"
        raise DataError(f"{path}: {what}. Correct data.train or data.validation; `lavie data pack` makes shards")
    tars, indices = sorted(path.glob("*.tar")), sorted(path.glob(f"*{SUFFIX}"))
    if tars:
        return path, _beside(path, tars, indices)
    if indices:
        return path, [_local(_elsewhere(index), index) for index in indices]
    below = sorted({t.parent.name for t in path.glob("*/*.tar")})
    hint = f"; there are some in its folders {', '.join(below)}" if below else ""
    raise DataError(f"{path}: no .tar shards in this folder{hint}. `lavie data pack SRC {path}` makes them")


def _beside(folder: Path, tars: list[Path], indices: list[Path]) -> list[_Shard]:
    if lost := sorted(set(indices) - {index_path(tar) for tar in tars}):
        names = ", ".join(index.name for index in lost[:5])
        raise DataError(
            f"{folder}: {len(lost)} of its shards are gone, their indices lie there (first: {names}): copy the shards "
            "again, or delete these indices"
        )
    return [_local(tar, index_path(tar)) for tar in tars]


def _elsewhere(index: Path) -> Path:
    header = read_header(index)
    if header.tar is None:
        shard = index.name.removesuffix(SUFFIX) + ".tar"
        raise DataError(f"index {index}: its shard {shard} is gone: copy it again, or delete the index")
    return Path(header.tar)


def _local(tar: Path, index: Path) -> _Shard:
    try:
        there = index.stat()
    except OSError:
        raise DataError(f"shard {tar}: no index {index.name} beside it. {remedy(index)}") from None
    name = str(tar) if tar.parent != index.parent else tar.name
    return _Shard(tar, index, _size(tar), [name, _size(tar), there.st_size, there.st_mtime_ns])


def _checked_header(shard: _Shard) -> Header:
    header, mend = read_header(shard.index, shard.url), remedy(shard.index, shard.url)
    if header.tar is not None and (shard.url or Path(header.tar).resolve() != Path(shard.tar).resolve()):
        raise DataError(f"index {shard.url or shard.index}: made for {header.tar}, lies beside another shard. {mend}")
    if shard.size != header.tar_bytes:
        raise DataError(
            f"shard {shard.tar}: {shard.size} bytes, its index was made for {header.tar_bytes}: cut short or replaced. "
            f"Copy the shard again, or {mend}"
        )
    return header


def _size(tar: Path) -> int:
    try:
        return tar.stat().st_size
    except OSError as error:
        raise DataError(f"shard {tar}: cannot be read: {error}") from None


def _fresh(places: Iterable[Path], folder: Path | str, sources: list[list[Any]]) -> Table | None:
    for place in places:
        if place.is_file():
            try:
                table = Table(place, folder)
            except DataError:  # damaged, or of another version: as good as none
                continue
            if table.sources == sources and list(table.names) == [source[0] for source in sources]:
                return table
    return None


def _compile(file: BinaryIO, shards: list[_Shard], headers: list[Header]) -> None:
    writer = TableWriter(file, sum(h.videos for h in headers), sum(h.images for h in headers))
    for number, (shard, header) in enumerate(zip(shards, headers, strict=True)):
        try:
            _add(writer, ((number, line) for line in read_index(shard.index, header, shard.url)))
        except (ValueError, TypeError, OverflowError) as error:
            mend = remedy(shard.index, shard.url)
            raise DataError(f"index {shard.url or shard.index}: {error}. {mend}") from None
    sources = [shard.source for shard in shards]
    writer.close([source[0] for source in sources], sources)


def _add(writer: TableWriter, lines: Iterator[tuple[int, dict[str, Any]]]) -> None:
    while chunk := list(islice(lines, CHUNK)):
        for kind in ("video", "image"):
            some = [(shard, line) for shard, line in chunk if line["kind"] == kind]
            if some:
                writer.add(kind, *_rows(writer, some))


def _rows(writer: TableWriter, lines: list[tuple[int, dict[str, Any]]]) -> tuple[np.ndarray, bytes]:
    """Rows (ROW) and their texts."""
    rows = np.zeros(len(lines), ROW)
    keys = [line["key"].encode() for _, line in lines]
    captions = [line["caption"].encode() for _, line in lines]
    for name in ROW.names or ():
        if name in lines[0][1] and name not in ("shard", "sha256", "codec", "fps"):
            rows[name] = [line[name] for _, line in lines]
    rows["shard"] = [shard for shard, _ in lines]
    rows["fps"] = [np.nan if line["fps"] is None else line["fps"] for _, line in lines]
    rows["sha256"] = [bytes.fromhex(line["sha256"]) for _, line in lines]
    rows["codec"] = [writer.code(writer.codecs, line["codec"]) for _, line in lines]
    rows["extension"] = [writer.code(writer.extensions, line["member"].rpartition(".")[2]) for _, line in lines]
    rows["key_bytes"], rows["caption_bytes"] = list(map(len, keys)), list(map(len, captions))
    texts = [key + caption for key, caption in zip(keys, captions, strict=True)]
    rows["text"] = np.cumsum([0, *map(len, texts[:-1])])
    return rows, b"".join(texts)


def _cached(name: str) -> Path:
    return _cache() / f"{hashlib.sha256(name.encode()).hexdigest()}.table"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lavie"


@contextmanager
def _one_of_the_node(folder: Path) -> Iterator[None]:
    """Processes of a node go through one after another, where the file system has locks; elsewhere all at once."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
