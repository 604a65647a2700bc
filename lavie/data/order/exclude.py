"""The samples that data.exclude leaves out: wherever one comes, a spare of its dataset stands in for it.

So the other samples keep their places, and a run that is resumed with a longer list goes on with the same data.
"""

from collections.abc import Collection
from pathlib import Path

from ...config.data import DataConfig
from ...errors import ConfigError
from ..shards.index import Index

MOST = 0.25
"""The largest share of the videos, or images, of a dataset that may be left out so. Spares are drawn from the whole
dataset, and of 21 in a row all would be left out once in 4 ** 21 positions."""


def excluded_keys(data: DataConfig) -> frozenset[str]:
    """Return the keys that data.exclude lists, itself or in its file, one a line.

    Raises:
        ConfigError: the file cannot be read.
    """
    if not isinstance(data.exclude, str):
        return frozenset(data.exclude)
    try:
        lines = Path(data.exclude).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.exclude is {data.exclude}, which is no file of keys, one a line ({error}): wanted one, or a list of "
            "keys, as [key]"
        ) from None
    return frozenset(line.strip() for line in lines if line.strip())


def keys_of(excluded: Collection[str], index: Index, where: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return which excluded keys a dataset has, and a sentence about its samples of them if there are any.

    Args:
        excluded: the keys.
        index: the dataset.
        where: its name, for messages.

    Raises:
        ConfigError: they are more than a share of MOST of its videos or of its images.
    """
    found: set[str] = set()
    count = 0
    for kind, samples in (("videos", index.videos), ("images", index.images)) if excluded else ():
        of_kind = [key for key in samples.sample_keys() if key in excluded]
        if len(of_kind) > MOST * len(samples):
            raise ConfigError(
                f"data.exclude has {len(of_kind)} of the {len(samples)} {kind} of {where}, and spares would be hard to "
                f"find from {MOST:.0%} on: pack the dataset without them, or take keys out of data.exclude"
            )
        found.update(of_kind)
        count += len(of_kind)
    told = (f"{where}: {count} of {len(index)} samples are left out by data.exclude, for spares",) if count else ()
    return frozenset(found), told


def require_known(excluded: Collection[str], found: Collection[str]) -> None:
    """Raise ConfigError if no dataset has one of the excluded keys."""
    unknown = sorted(set(excluded) - set(found))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ConfigError(
            f"data.exclude has {unknown[0]}{more}, which no sample of data.train has for a key: take it out, or write "
            "the keys as messages and dropped-rank*.jsonl have them"
        )
