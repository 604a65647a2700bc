"""The files of a cache that are not shards: its description, the list of failures, and how any of them is written."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config.data import DataConfig
from ...errors import DataError
from ...files import replacing

FORMAT = 1
DELETE = "Delete it and run `lavie data cache` again: it encodes what is missing"


STORED = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32)}
"""The dtypes that entries can have."""


def size_folder(root: str | Path, data: DataConfig) -> Path:
    """Where in a cache the entries of a configuration's size are."""
    return Path(root) / f"{data.num_frames}x{data.height}x{data.width}"


def read_description(folder: Path) -> dict[str, Any] | None:
    """What `describe` wrote; None if there is nothing. Raises DataError if it cannot be read."""
    path = folder / "cache.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']}, wanted {FORMAT}")
        if description["dtype"] not in STORED or not isinstance(description["made"], dict):
            raise ValueError(f"dtype {description['dtype']!r}, made {description['made']!r}")
        return description
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error!r}. Make the cache again in a new folder") from None


def require_same(got: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Raise a DataError that names every field of `wanted` that differs in `got`."""
    wanted = json.loads(json.dumps(dict(wanted)))  # tuples become lists, as in the file
    differing = [name for name in {**wanted, **got} if got.get(name) != wanted.get(name)]
    if differing:
        fields = "; ".join(f"{name} is {got.get(name)!r}, wanted {wanted.get(name)!r}" for name in differing)
        raise DataError(
            f"{where}: made for something else: {fields}. Run `lavie data cache` again into a new folder, or change "
            "the config back"
        )


def read_failed(folder: Path) -> list[dict[str, Any]]:
    """The lines of all ranks. Raises DataError if one is damaged."""
    lines = []
    for path in sorted(folder.glob("failed-rank*.jsonl")):
        try:
            for text in path.read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                if not isinstance(line["entry"], str) or not isinstance(line["reason"], str):
                    raise ValueError(f"entry {line['entry']!r}, reason {line['reason']!r}: wanted text")
                lines.append(line)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read: {error!r}. {DELETE}") from None
    return lines


def tensor_bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def entry_digest(key: bytes, parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256(key)
    for part in parts:
        digest.update(part)
    return digest.digest()


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from None
