"""The reading of a sample's media bytes out of its shard, verified."""

import hashlib
from functools import lru_cache

from ...errors import DataError
from .index_file import Sample
from .offset_file import OffsetFile
from .remote import ATTEMPTS, read_range

MAX_OPEN = 64
"""How many local shards a process keeps open."""


def read_member(sample: Sample, verify: bool = True, timeout: float = 120.0) -> bytes:
    """Return the media bytes of a sample.

    Args:
        sample: the sample, with the place of its bytes in the shard.
        verify: compare the bytes with the SHA-256 of the index.
        timeout: seconds. All attempts together wait half of it for the answers of a store, where the shard is remote.

    Raises:
        DataError: the bytes cannot be read, are cut short, or differ from the packed ones. The message begins with
            shard:offset:key.
    """
    place = f"{sample.shard}:{sample.offset}:{sample.key}"
    try:
        if "://" in sample.shard:  # no path has two slashes, so that this came from a URL of the configuration
            data = read_range(sample.shard, sample.offset, sample.size, timeout / 2 / ATTEMPTS)
        else:
            data = _open_shard(sample.shard).read(sample.offset, sample.size)
        if len(data) != sample.size:
            raise DataError(
                f"{place}: {len(data)} of {sample.size} bytes: the shard is cut short, copy or pack it again"
            )
        if verify and hashlib.sha256(data).hexdigest() != sample.sha256:
            raise DataError(f"{place}: the SHA-256 differs from the index: the shard is damaged, copy or pack it again")
    except OSError as error:
        _open_shard.cache_clear()
        raise DataError(f"{place}: cannot be read: {error}") from None
    except DataError:
        _open_shard.cache_clear()  # a shard that is replaced by a whole one is found by its path again
        raise
    return data


# Hidden state: the local shards that this process has open, at most MAX_OPEN, the longest unused closed first. Emptied
# whenever a member cannot be read.
@lru_cache(maxsize=MAX_OPEN)
def _open_shard(path: str) -> OffsetFile:
    """Open a shard, or return it if it is open."""
    return OffsetFile(path)
