"""The shards of a remote folder, their indices fetched once per node.

An index lies in the user's cache under the hash of its URL and of what the store says of its version. Where a store
tells no versions, it is fetched anew by every process that asks.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...errors import DataError
from ...files import replacing
from .index_file import REMOTE_REMEDY, SUFFIX
from .remote import Entry, StoreError, check_url, describe, list_folder, read_whole

AT_ONCE = 16
"""Files that are described or fetched at a time."""
MAX_INDEX = 1 << 30
"""Bytes of one index: it is read into memory whole."""


def remote_shards(url: str) -> tuple[str, list[tuple[Entry, Entry]]]:
    """The folder of a URL, and the tar and the index of each shard: all of the folder, or a single .tar.

    Raises DataError if there is none, or one is without its index.
    """
    url = check_url(url)
    if url.endswith(".tar"):
        folder, found = url.rpartition("/")[0], [Entry(url, -1, "")]
        found.append(Entry(_index_url(url), -1, ""))
    else:
        folder, found = url, list_folder(url)
    tars = [entry for entry in found if entry.url.endswith(".tar")]
    indices = {entry.url: entry for entry in found if entry.url.endswith(SUFFIX)}
    if not tars:
        raise DataError(
            f"{url}: no .tar shards are listed there. A web server must list its folders as HTML; where it does not, "
            f"name every shard in data.train, as {url}/00000.tar"
        )
    if lost := sorted(indices.keys() - {_index_url(tar.url) for tar in tars}):
        names = ", ".join(lost[:5])
        raise DataError(f"{url}: {len(lost)} of its shards are gone, their indices lie there (first: {names})")
    if bare := [tar.url for tar in tars if _index_url(tar.url) not in indices]:
        raise DataError(f"shard {bare[0]}: no index beside it ({len(bare)} such shards). {REMOTE_REMEDY}")
    pairs = [(tar, indices[_index_url(tar.url)]) for tar in tars]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        flat = list(pool.map(_described, [entry for pair in pairs for entry in pair]))
    return folder, list(zip(flat[::2], flat[1::2], strict=True))


def fetched(indices: list[Entry], cache: Path) -> list[Path]:
    """Local copies of indices, in order. To be called by one process of a node at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda entry: _fetched(entry, cache), indices))


def _index_url(tar: str) -> str:
    return tar.removesuffix(".tar") + SUFFIX


def _described(entry: Entry) -> Entry:
    """With its size, which listings over HTTP lack."""
    return entry if entry.size >= 0 else describe(entry.url)


def _fetched(entry: Entry, cache: Path) -> Path:
    kept = hashlib.sha256(entry.url.encode()).hexdigest()[:32]
    version = f"{entry.size} {entry.stamp}".encode()
    if entry.stamp and (path := _path(cache, kept, version)).is_file() and path.stat().st_size == entry.size:
        return path
    if entry.size > MAX_INDEX:
        raise StoreError(f"{entry.url}: an index of {entry.size} bytes, at most {MAX_INDEX} are read")
    data = read_whole(entry)
    path = _path(cache, kept, version if entry.stamp else data)
    with replacing(path) as partial:
        partial.write_bytes(data)
    for old in set(cache.glob(f"{kept}-*{SUFFIX}")) - {path}:
        old.unlink(missing_ok=True)
    return path


def _path(cache: Path, kept: str, version: bytes) -> Path:
    return cache / f"{kept}-{hashlib.sha256(version).hexdigest()[:32]}{SUFFIX}"
