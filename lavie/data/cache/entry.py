"""The entries of a cache: the kind, the key, the tensors and the digest of each.

The key of an entry depends on the bytes of the media, on the caption and on the number of the cut, so that an entry is
not found any more once its sample has changed.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..shards.index_file import Sample

KINDS = ("clips", "images")
"""The kinds of entries; the entries of each have files of their own."""
TENSORS = ("mean", "std", "text")
"""The tensors of an entry, in the order in which its digest takes them; `std` may be absent."""


def entry_kind(sample: Sample) -> str:
    """Return the one of KINDS that holds the entries of a sample."""
    return "clips" if sample.kind == "video" else "images"


def entry_keys(media: np.ndarray, captions: np.ndarray, cut: int) -> np.ndarray:
    """Return the keys of one cut of several samples: uint8 (n, 16).

    A key is the exclusive or of 128 bits each of three SHA-256 hashes: of the media, of the caption, and of the cut's
    number. That is as good as a hash of all three, and takes one operation for a whole table.

    Args:
        media: uint8 (n, 32), the SHA-256 of each sample's media.
        captions: uint8 (n, 32), the SHA-256 of each sample's clean caption.
        cut: the number of the cut, from 0.
    """
    mark = np.frombuffer(hashlib.sha256(f"cut {cut}".encode()).digest(), np.uint8)
    return media[:, :16] ^ captions[:, :16] ^ mark[:16]


def entry_key(sample: Sample, cut: int) -> bytes:
    """Return the key of one cut of one sample, 16 bytes."""
    media = np.frombuffer(bytes.fromhex(sample.sha256), np.uint8)
    caption = np.frombuffer(bytes.fromhex(sample.caption_sha256), np.uint8)
    return entry_keys(media[None], caption[None], cut).tobytes()


def entry_digest(key: bytes, tensors: Iterable[bytes]) -> bytes:
    """Return the SHA-256 of an entry: of its key, followed by the bytes of its tensors in the order of TENSORS."""
    digest = hashlib.sha256(key)
    for data in tensors:
        digest.update(data)
    return digest.digest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor on the CPU, in row-major order, as a safetensors file holds them."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
