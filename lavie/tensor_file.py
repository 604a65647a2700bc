"""Writing of safetensors files that are on the disk when the function returns, hashed on the way.

The library's own writer holds every tensor's bytes a second time in memory, leaves the file to the page cache, and has
errors without errno. Files are read by the library.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

PIECE = 2**24
"""Bytes that are written and hashed at a time."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
}
"""The format's names of the dtypes that a checkpoint holds."""


class FileRecord(TypedDict):
    """What a manifest says of a file."""

    bytes: int
    sha256: str
    """64 hexadecimal digits."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> FileRecord:
    """Write tensors of the CPU as safetensors, fsync the file, and return its size and hash.

    Args:
        path: must not be there yet.
        tensors: by name; of the dtypes in DTYPES.
        metadata: texts for the file's header.

    Raises:
        OSError: the file cannot be written; a part of it may lie there.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("xb", buffering=0) as file:
        for piece in (_header(tensors, metadata), *(_bytes_of(tensor) for tensor in tensors.values())):
            for start in range(0, len(piece), PIECE):
                part = piece[start : start + PIECE]
                digest.update(part)
                size += len(part)
                # The system may take less than it is given, as at a limit of file sizes.
                while part:
                    part = part[file.write(part) :]
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def size_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Return how many bytes `write_tensors` writes. The tensors may be of any device, "meta" too."""
    return len(_header(tensors, metadata)) + sum(tensor.nbytes for tensor in tensors.values())


def write_text(path: Path, text: str) -> FileRecord:
    """Write a text as UTF-8 to a new file, fsync it, and return its size and hash. Raises OSError if it cannot."""
    content = text.encode()
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def copy_file(source: Path, path: Path) -> FileRecord:
    """Copy a file to a new one, fsync that, and return its size and hash. Raises OSError if it cannot."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as old, path.open("xb") as file:
        while part := old.read(PIECE):
            digest.update(part)
            size += file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; some network file systems do so by themselves, and offer no call for it.

    Raises:
        OSError: the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> memoryview:
    """Return the head of a file: its length as 8 bytes, little-endian, then JSON, padded to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a tensor, without a copy if it is contiguous."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data
