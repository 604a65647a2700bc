"""The shards of a remote folder, and local copies of their indices, fetched once for each node.

A copy lies in the user's cache, under the hash of its URL and of what the store says of its version. Where a store
tells no versions, every process that asks fetches the index anew.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...errors import DataError
from ...files import replacing
from .index_file import REMOTE_REMEDY, SUFFIX
from .remote import RemoteFile, StoreError, check_url, list_folder, read_whole, stat_file

AT_ONCE = 16
"""How many files are looked up or fetched at a time."""
MAX_INDEX = 1 << 30
"""The most bytes that an index may have: it is read into memory whole."""


def remote_shards(url: str) -> tuple[str, list[tuple[RemoteFile, RemoteFile]]]:
    """Return the folder of a dataset behind a URL, and the tar and the index of each of its shards.

    Args:
        url: a folder, all of whose shards are meant, or a single .tar.

    Raises:
        DataError: the URL may not be read, there is no shard, or one is without its index, or an index without its
            shard.
        StoreError: the store cannot be asked.
    """
    url = check_url(url)
    if url.endswith(".tar"):
        folder = url.rpartition("/")[0]
        files = [RemoteFile(url, -1, ""), RemoteFile(_index_url(url), -1, "")]
    else:
        folder, files = url, list_folder(url)
    tars = [file for file in files if file.url.endswith(".tar")]
    indices = {file.url: file for file in files if file.url.endswith(SUFFIX)}

    # Every shard must have its index, and every index its shard: else the copy of the dataset is not whole.
    if not tars:
        raise DataError(
            f"{url}: no .tar shards are listed there. A web server must list its folders as HTML; where it does not, "
            f"name every shard in data.train, as {url}/00000.tar"
        )
    if lone_indices := sorted(indices.keys() - {_index_url(tar.url) for tar in tars}):
        names = ", ".join(lone_indices[:5])
        raise DataError(f"{url}: {len(lone_indices)} of its shards are gone, their indices lie there (first: {names})")
    if bare_tars := [tar.url for tar in tars if _index_url(tar.url) not in indices]:
        raise DataError(f"shard {bare_tars[0]}: no index beside it ({len(bare_tars)} such shards). {REMOTE_REMEDY}")

    # Listings over HTTP have no sizes, so that those of all files are looked up side by side.
    pairs = [(tar, indices[_index_url(tar.url)]) for tar in tars]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sized_files = list(pool.map(_with_size, [file for pair in pairs for file in pair]))
    return folder, list(zip(sized_files[::2], sized_files[1::2], strict=True))


def fetch_indices(indices: Sequence[RemoteFile], cache: Path) -> list[Path]:
    """Return local copies of indices, in order; fetch those that are missing or stale.

    One process of a node at a time may call this.

    Args:
        indices: the indices, with their sizes.
        cache: the folder of the copies.

    Raises:
        StoreError: an index cannot be read, or is larger than MAX_INDEX.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda index: _fetch(index, cache), indices))


def _index_url(tar: str) -> str:
    """Return the URL of the index beside a shard."""
    return tar.removesuffix(".tar") + SUFFIX


def _with_size(file: RemoteFile) -> RemoteFile:
    """Return a file with its size, asking the store for it where a listing did not tell it."""
    return file if file.size >= 0 else stat_file(file.url)


def _fetch(index: RemoteFile, cache: Path) -> Path:
    """Return the local copy of an index; fetch it, and remove copies of its other versions, unless it is fresh."""
    url_hash = hashlib.sha256(index.url.encode()).hexdigest()[:32]
    version = f"{index.size} {index.stamp}".encode()
    if index.stamp:
        path = _copy_path(cache, url_hash, version)
        if path.is_file() and path.stat().st_size == index.size:
            return path

    if index.size > MAX_INDEX:
        raise StoreError(f"{index.url}: an index of {index.size} bytes, at most {MAX_INDEX} are read")
    data = read_whole(index)
    # Without a stamp the content alone tells versions apart.
    path = _copy_path(cache, url_hash, version if index.stamp else data)
    with replacing(path) as partial:
        partial.write_bytes(data)
    for old in set(cache.glob(f"{url_hash}-*{SUFFIX}")) - {path}:
        old.unlink(missing_ok=True)
    return path


def _copy_path(cache: Path, url_hash: str, version: bytes) -> Path:
    """Return where the copy of one version of an index lies."""
    return cache / f"{url_hash}-{hashlib.sha256(version).hexdigest()[:32]}{SUFFIX}"
