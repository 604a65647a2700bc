"""The layout of a cache: which files it has, where each lies, and how one is written.

A cache holds what the frozen encoders compute for a dataset, so that training computes it no more:

    OUT/16x320x512/                      one folder for each size: frames, height and width of the clips
        cache.json                       what the entries were made with, their dtype and shapes
        empty.safetensors                text (1, L, D): the features of the empty caption
        clips-<hash>.safetensors         mean, std (n, F, C, h, w), text (n, 1, L, D), key (n, 16), sha256 (n, 32)
        images-<hash>.safetensors        the same tensors for images, F = 1
        clips.lookup, images.lookup      the shard and the row of every entry, sorted by key (safetensors)
        failed-rank<r>.jsonl             the entries that rank r could not decode

An entry is one cut of one sample: a row of each tensor of a shard. `mean` and `std` are those of the autoencoder's
posterior, scaled; `std` is left out where the latents are certain. A shard is written whole or not at all, under a name
that its keys decide: ranks need not agree on names, and a shard that is written again replaces itself.
"""

from pathlib import Path

from ...config.data import DataConfig
from ...errors import DataError
from ...files import replacing

DELETE = "Delete it and run `lavie data cache` again: it encodes what is missing"
"""The remedy for a damaged file, as the last sentence of an error's message."""


def size_folder(root: str | Path, data: DataConfig) -> Path:
    """Return the folder, inside the cache at `root`, of the entries of one size of clips.

    Args:
        root: the cache, as in data.cache.
        data: the configuration of that size.
    """
    return Path(root) / f"{data.num_frames}x{data.height}x{data.width}"


def shard_names(folder: Path, kind: str) -> list[str]:
    """Return the names of the shards of one kind in a size's folder, sorted."""
    return sorted(path.name for path in folder.glob(f"{kind}-*.safetensors"))


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises DataError if the file system refuses."""
    try:
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from None
