"""The compilation of a dataset's table from the indices of its shards, when the table is missing or stale.

Small datasets are compiled in memory. The table of a large one lies beside its shards as `index.table`, or, where that
folder cannot be written, in the user's cache. It is written whole or not at all, by one process of a node at a time.
"""

import errno
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import DataError
from ...files import replacing
from .find_shards import IndexedShard, find_remote_shards, find_shards
from .index_file import Header, Sample, read_index
from .node_cache import one_process_per_node, user_cache
from .remote import is_url, redact
from .table import ROW_DTYPE, Table, TableWriter

IN_MEMORY = 1 << 16
"""Datasets of at most this many samples have no file: compiling them takes a second."""
CHUNK = 1 << 14
"""How many samples are compiled at a time."""


def open_table(path: str, remote: bool = False) -> Table:
    """Return the table of a dataset, compiled anew unless a fresh one lies there.

    Args:
        path: a folder of shards, a folder of indices, a single tar, or a URL of one of these.
        remote: whether URLs may be read.

    Raises:
        DataError: the dataset is missing or damaged, or its table cannot be written.
    """
    if is_url(path):
        if not remote:
            raise DataError(
                f"{redact(path)}: only local paths are read, never commands, and URLs only with data.remote=true: set "
                "it, or copy or mount the dataset"
            )
        try:
            url, shards = find_remote_shards(path)
        except OSError as error:  # of the store, or of the folder that indices are fetched to
            raise DataError(f"data.train or data.validation: {error}") from None
        return _open_or_compile([_path_in_user_cache(path)], url, shards)
    folder, shards = find_shards(Path(path))
    table_path = folder / ("index.table" if Path(path).is_dir() else f"{Path(path).stem}.index.table")
    return _open_or_compile([table_path, _path_in_user_cache(str(table_path.resolve()))], folder, shards)


def compile_samples(samples: Sequence[Sample]) -> Table:
    """Return a table, in memory, of some samples: videos, then images, each in the given order."""
    file = BytesIO()
    videos = sum(sample.kind == "video" for sample in samples)
    writer = TableWriter(file, videos, len(samples) - videos)
    shards = list(dict.fromkeys(sample.shard for sample in samples))
    number = {shard: i for i, shard in enumerate(shards)}
    _add_lines(writer, ((number[sample.shard], asdict(sample)) for sample in samples))
    writer.close(shards, None)
    return Table(file.getvalue(), Path())


def _open_or_compile(candidates: Sequence[Path], folder: Path | str, shards: list[IndexedShard]) -> Table:
    """Return the table of some shards.

    1. A fresh table at one of the candidates is opened.
    2. A small dataset is compiled in memory.
    3. A large one is compiled to the first candidate that can be written.

    Args:
        candidates: where the table may lie.
        folder: what the names of the shards are relative to.
        shards: the shards of the dataset.
    """
    sources = [shard.source for shard in shards]
    if table := _open_fresh(candidates, folder, sources):
        return table
    headers = [shard.header() for shard in shards]
    if sum(header.videos + header.images for header in headers) <= IN_MEMORY:
        buffer = BytesIO()
        _compile(buffer, shards, headers)
        return Table(buffer.getvalue(), folder)

    for path in candidates:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with one_process_per_node(path.parent):
                # Another process of the node may have written it while this one waited for the lock.
                if table := _open_fresh([path], folder, sources):
                    return table
                with replacing(path) as partial, partial.open("wb") as file:
                    _compile(file, shards, headers)
                return Table(path, folder)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or path == candidates[-1]:
                raise DataError(
                    f"table {path}: cannot be written: {error}. XDG_CACHE_HOME names another folder"
                ) from None
    raise AssertionError("one of the candidates has given a table or raised")


def _open_fresh(candidates: Iterable[Path], folder: Path | str, sources: list[list[Any]]) -> Table | None:
    """Return the first of the candidates that was made from `sources`; None if none was."""
    for path in candidates:
        if path.is_file():
            try:
                table = Table(path, folder)
            except DataError:  # damaged, or of another version: as good as none
                continue
            if table.sources == sources and list(table.names) == [source[0] for source in sources]:
                return table
    return None


def _compile(file: BinaryIO, shards: list[IndexedShard], headers: list[Header]) -> None:
    """Write the table of some shards into a seekable file. Raises DataError if an index is damaged."""
    writer = TableWriter(file, sum(header.videos for header in headers), sum(header.images for header in headers))
    for number, (shard, header) in enumerate(zip(shards, headers, strict=True)):
        try:
            _add_lines(writer, ((number, line) for line in read_index(shard.index, header, shard.index_url)))
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"index {shard.index_name}: {error}. {shard.remedy}") from None
    sources = [shard.source for shard in shards]
    writer.close([source[0] for source in sources], sources)


def _add_lines(writer: TableWriter, lines: Iterator[tuple[int, dict[str, Any]]]) -> None:
    """Add samples to a table: for each, the number of its shard and its fields, as in an index."""
    while chunk := list(islice(lines, CHUNK)):
        for kind in ("video", "image"):
            of_kind = [(shard, line) for shard, line in chunk if line["kind"] == kind]
            if of_kind:
                writer.add(kind, *_as_rows(writer, of_kind))


def _as_rows(writer: TableWriter, lines: list[tuple[int, dict[str, Any]]]) -> tuple[np.ndarray, bytes]:
    """Return samples of one kind, at least one, as rows (n,) of ROW_DTYPE and the text that these rows point into."""
    rows = np.zeros(len(lines), ROW_DTYPE)
    keys = [line["key"].encode() for _, line in lines]
    captions = [line["caption"].encode() for _, line in lines]

    # Most columns are fields of an index as they are; the others have another name, type or unit there.
    for name in ROW_DTYPE.names or ():
        if name in lines[0][1] and name not in ("shard", "sha256", "codec", "fps"):
            rows[name] = [line[name] for _, line in lines]
    rows["shard"] = [shard for shard, _ in lines]
    rows["fps"] = [np.nan if line["fps"] is None else line["fps"] for _, line in lines]
    rows["sha256"] = [bytes.fromhex(line["sha256"]) for _, line in lines]
    rows["codec"] = [writer.code(writer.codecs, line["codec"]) for _, line in lines]
    rows["extension"] = [writer.code(writer.extensions, line["member"].rpartition(".")[2]) for _, line in lines]

    # Key and caption of a sample follow each other in the text, sample after sample.
    rows["key_bytes"], rows["caption_bytes"] = list(map(len, keys)), list(map(len, captions))
    texts = [key + caption for key, caption in zip(keys, captions, strict=True)]
    rows["text"] = np.cumsum([0, *map(len, texts[:-1])])
    return rows, b"".join(texts)


def _path_in_user_cache(name: str) -> Path:
    """Return where in the user's cache the table lies that belongs at `name`, a URL or an absolute path."""
    return user_cache() / f"{hashlib.sha256(name.encode()).hexdigest()}.table"
