"""The table of a dataset: made from the indices of its shards when it is missing or stale.

Small datasets are compiled in memory. The table of a large one lies beside its shards as `index.table`, or, where that
folder cannot be written, in the user's cache. It is written whole or not at all, by one process of a node at a time.
"""

import errno
import fcntl
import hashlib
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataError
from .index_file import SUFFIX, Header, Sample, index_path, read_header, read_index, remedy
from .table import ROW, Part, Table, TableWriter

IN_MEMORY = 1 << 16
"""Datasets of at most so many samples have no file: they take a second to compile."""
CHUNK = 1 << 14
"""Samples that are compiled at a time."""


def compiled(path: str) -> Table:
    """The table of a folder of shards, a folder of indices, or a single tar."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", path):
        raise DataError(f"{path}: only local paths are read, never URLs or commands: copy or mount the dataset")
    folder, shards = _shards(Path(path))
    sources = [_source(tar, index) for tar, index in shards]
    name = "index.table" if Path(path).is_dir() else f"{Path(path).stem}.index.table"
    places = [folder / name, _cache() / f"{hashlib.sha256(str((folder / name).resolve()).encode()).hexdigest()}.table"]
    if fresh := _fresh(places, folder, sources):
        return fresh
    headers = [_checked_header(tar, index) for tar, index in shards]
    if sum(h.videos + h.images for h in headers) <= IN_MEMORY:
        buffer = BytesIO()
        _compile(buffer, shards, headers, sources)
        return Table(buffer.getvalue(), folder)
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with _one_of_the_node(place.parent):
                if fresh := _fresh([place], folder, sources):
                    return fresh
                partial = place.with_name(f"{place.name}.{socket.gethostname()}-{os.getpid()}.partial")
                try:
                    with open(partial, "wb") as file:
                        _compile(file, shards, headers, sources)
                        file.flush()
                        os.fsync(file.fileno())
                    os.replace(partial, place)
                finally:
                    partial.unlink(missing_ok=True)
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


def _shards(path: Path) -> tuple[Path, list[tuple[Path, Path]]]:
    """The folder that a table of `path` belongs to, and the tar and index of each shard."""
    if path.is_file() and path.suffix == ".tar":
        return path.parent, [(path, index_path(path))]
    if not path.is_dir():
        what = "no folder of shards and no .tar file" if path.exists() else "no such file or folder"
        raise DataError(f"{path}: {what}. Correct data.train or data.validation; `lavie data pack` makes shards")
    tars, indices = sorted(path.glob("*.tar")), sorted(path.glob(f"*{SUFFIX}"))
    if tars:
        return path, _beside(path, tars, indices)
    if indices:
        return path, [(_elsewhere(index), index) for index in indices]
    below = sorted({t.parent.name for t in path.glob("*/*.tar")})
    hint = f"; there are some in its folders {', '.join(below)}" if below else ""
    raise DataError(f"{path}: no .tar shards in this folder{hint}. `lavie data pack SRC {path}` makes them")


def _beside(folder: Path, tars: list[Path], indices: list[Path]) -> list[tuple[Path, Path]]:
    if lost := sorted(set(indices) - {index_path(tar) for tar in tars}):
        names = ", ".join(index.name for index in lost[:5])
        raise DataError(
            f"{folder}: {len(lost)} of its shards are gone, their indices lie there (first: {names}): copy the shards "
            "again, or delete these indices"
        )
    return [(tar, index_path(tar)) for tar in tars]


def _elsewhere(index: Path) -> Path:
    header = read_header(index)
    if header.tar is None:
        shard = index.name.removesuffix(SUFFIX) + ".tar"
        raise DataError(f"index {index}: its shard {shard} is gone: copy it again, or delete the index")
    return Path(header.tar)


def _source(tar: Path, index: Path) -> list[Any]:
    """What a table must have been made from to be fresh."""
    try:
        there = index.stat()
    except OSError:
        raise DataError(f"shard {tar}: no index {index.name} beside it. {remedy(index)}") from None
    return [str(tar) if tar.parent != index.parent else tar.name, _size(tar), there.st_size, there.st_mtime_ns]


def _checked_header(tar: Path, index: Path) -> Header:
    header, size = read_header(index), _size(tar)
    if header.tar is not None and Path(header.tar).resolve() != tar.resolve():
        raise DataError(f"index {index}: made for {header.tar}, lies beside another shard. {remedy(index)}")
    if size != header.tar_bytes:
        raise DataError(
            f"shard {tar}: {size} bytes, its index was made for {header.tar_bytes}: cut short or replaced. "
            f"Copy the shard again, or {remedy(index)}"
        )
    return header


def _size(tar: Path) -> int:
    try:
        return tar.stat().st_size
    except OSError as error:
        raise DataError(f"shard {tar}: cannot be read: {error}") from None


def _fresh(places: Iterable[Path], folder: Path, sources: list[list[Any]]) -> Table | None:
    for place in places:
        if place.is_file():
            try:
                table = Table(place, folder)
            except DataError:  # damaged, or of another version: as good as none
                continue
            if table.sources == sources:
                return table
    return None


def _compile(file: BinaryIO, shards: list[tuple[Path, Path]], headers: list[Header], sources: list[list[Any]]) -> None:
    writer = TableWriter(file, sum(h.videos for h in headers), sum(h.images for h in headers))
    for number, ((_, index), header) in enumerate(zip(shards, headers, strict=True)):
        try:
            _add(writer, ((number, line) for line in read_index(index, header)))
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"index {index}: {error}. {remedy(index)}") from None
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
