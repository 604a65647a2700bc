"""The search for a dataset's shards and their indices, in a local folder, a single tar, or behind a URL."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from .index_file import SUFFIX, Header, index_path, read_header, remedy
from .node_cache import one_process_per_node, user_cache
from .remote_index import fetch_indices, remote_shards


@dataclass(frozen=True)
class IndexedShard:
    """A shard that was found, and its index."""

    tar: Path | str
    """The shard: a path, or a URL where it is remote."""
    index: Path
    """The index, or the local copy of a remote one."""
    size: int
    """Bytes of the tar."""
    source: list[Any]
    """What identifies this version of the shard and its index, for a table made from them; first the tar's name."""
    index_url: str | None = None
    """The URL that the index was fetched from; None for a local one."""

    @property
    def index_name(self) -> str:
        """The index as an error should name it: its URL, or its path."""
        return self.index_url or str(self.index)

    @property
    def remedy(self) -> str:
        """What mends the index, as the last sentence of an error's message."""
        return remedy(self.index, self.index_url)

    def header(self) -> Header:
        """Return the header of the index.

        Raises:
            DataError: the header cannot be read, or the index was made for another shard, or for this one when it had
                another size.
        """
        header = read_header(self.index, self.index_url)
        if header.tar is not None and (self.index_url or Path(header.tar).resolve() != Path(self.tar).resolve()):
            raise DataError(f"index {self.index_name}: made for {header.tar}, lies beside another shard. {self.remedy}")
        if self.size != header.tar_bytes:
            raise DataError(
                f"shard {self.tar}: {self.size} bytes, its index was made for {header.tar_bytes}: cut short or "
                f"replaced. Copy the shard again, or {self.remedy}"
            )
        return header


def find_shards(path: Path) -> tuple[Path, list[IndexedShard]]:
    """Return the folder that the names of a dataset's shards are relative to, and the shards, sorted by name.

    Args:
        path: a folder of shards with their indices, a folder of indices whose shards lie elsewhere, or one .tar.

    Raises:
        DataError: there are no shards, or one is without its index, or an index is without its shard.
    """
    if path.is_file() and path.suffix == ".tar":
        return path.parent, [_local_shard(path, index_path(path))]
    if not path.is_dir():
        what = "no folder of shards and no .tar file" if path.exists() else "no such file or folder"
        raise DataError(f"{path}: {what}. Correct data.train or data.validation; `lavie data pack` makes shards")

    tars, indices = sorted(path.glob("*.tar")), sorted(path.glob(f"*{SUFFIX}"))
    if tars:
        return path, _shards_beside_indices(path, tars, indices)
    if indices:
        return path, [_local_shard(_tar_of_lone_index(index), index) for index in indices]

    subfolders = sorted({tar.parent.name for tar in path.glob("*/*.tar")})
    hint = f"; there are some in its folders {', '.join(subfolders)}" if subfolders else ""
    raise DataError(f"{path}: no .tar shards in this folder{hint}. `lavie data pack SRC {path}` makes them")


def find_remote_shards(url: str) -> tuple[str, list[IndexedShard]]:
    """Return the URL of the folder that a dataset's shards lie in, and the shards; fetch their indices.

    The indices are in the user's cache afterwards; one process of a node at a time fetches them.

    Raises:
        DataError: the URL may not be read, there are no shards, or one is without its index.
        OSError: the store or the user's cache does not do as asked.
    """
    folder, pairs = remote_shards(url)
    cache = user_cache() / "indices"
    cache.mkdir(parents=True, exist_ok=True)
    with one_process_per_node(cache):
        paths = fetch_indices([index for _, index in pairs], cache)
    shards = []
    for (tar, index), path in zip(pairs, paths, strict=True):
        source = [tar.url.rpartition("/")[2], tar.size, index.size, path.name]
        shards.append(IndexedShard(tar.url, path, tar.size, source, index.url))
    return folder, shards


def _shards_beside_indices(folder: Path, tars: list[Path], indices: list[Path]) -> list[IndexedShard]:
    """Return the shards of a folder. Raises DataError if one lacks its index, or an index its shard."""
    if lone_indices := sorted(set(indices) - {index_path(tar) for tar in tars}):
        names = ", ".join(index.name for index in lone_indices[:5])
        raise DataError(
            f"{folder}: {len(lone_indices)} of its shards are gone, their indices lie there (first: {names}): copy the "
            "shards again, or delete these indices"
        )
    return [_local_shard(tar, index_path(tar)) for tar in tars]


def _tar_of_lone_index(index: Path) -> Path:
    """Return the shard elsewhere that an index names. Raises DataError if it names none."""
    header = read_header(index)
    if header.tar is None:
        shard = index.name.removesuffix(SUFFIX) + ".tar"
        raise DataError(f"index {index}: its shard {shard} is gone: copy it again, or delete the index")
    return Path(header.tar)


def _local_shard(tar: Path, index: Path) -> IndexedShard:
    """Return a shard on a disk. Raises DataError if the tar or its index is missing."""
    try:
        index_status = index.stat()
    except OSError:
        raise DataError(f"shard {tar}: no index {index.name} beside it. {remedy(index)}") from None
    try:
        tar_bytes = tar.stat().st_size
    except OSError as error:
        raise DataError(f"shard {tar}: cannot be read: {error}") from None
    name = str(tar) if tar.parent != index.parent else tar.name
    return IndexedShard(tar, index, tar_bytes, [name, tar_bytes, index_status.st_size, index_status.st_mtime_ns])
