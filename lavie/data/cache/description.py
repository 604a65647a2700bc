"""The description of a cache: what all its entries were made with and have in common.

Two files hold it, cache.json and empty.safetensors. The first call of `lavie data cache` writes them; later calls and
training compare them with their own configuration.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...errors import DataError
from .entry import tensor_bytes
from .layout import DELETE, write_file
from .tensor_file import TensorFile

FORMAT = 2
"""The version of a cache's files, and of the pixels that entries are made of: it rises when frames of some media files
come out otherwise. A cache of another one is refused."""
ENTRY_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32)}
"""The dtypes that entries can have, by their names in cache.json."""


def write_description(
    folder: Path, made_with: Mapping[str, Any], image_entry: Mapping[str, Tensor], empty_text: Tensor, encoded_in: str
) -> None:
    """Write the description of a size, or, where there is one, check that it is the same.

    Args:
        folder: the folder of the size; made if it is missing.
        made_with: as for `Cache`.
        image_entry: the tensors of any image's entry, in the dtype of all entries.
        empty_text: (1, L, D), the features of the empty caption.
        encoded_in: the name of the dtype that the encoders run in.

    Raises:
        DataError: the folder has another description; the message names the fields that differ.
    """
    description = {
        "format": FORMAT,
        "made": dict(made_with),
        "dtype": str(empty_text.dtype).removeprefix("torch."),
        "encoded_in": encoded_in,
        "latents": list(image_entry["mean"].shape[1:]),
        "std": "std" in image_entry,
        "empty_sha256": hashlib.sha256(tensor_bytes(empty_text)).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    existing = read_description(folder)
    # cache.json comes last: a folder that has it has empty.safetensors too.
    if existing is None:
        write_file(folder / "empty.safetensors", save_tensors({"text": empty_text.contiguous()}))
        write_file(folder / "cache.json", json.dumps(description, indent=2).encode())
        return

    require_same(existing["made"], made_with, f"OUT {folder}")
    for field, flag in (("dtype", "--dtype"), ("encoded_in", "mixed_precision")):
        if existing[field] != description[field]:
            raise DataError(
                f"OUT {folder}: {field} is {existing[field]}, this call has {description[field]}: change {flag}, or "
                "name a new folder"
            )


def read_description(folder: Path) -> dict[str, Any] | None:
    """Return the cache.json that `write_description` wrote into a size's folder; None if there is none.

    Raises:
        DataError: cache.json cannot be read, or is of another format.
    """
    path = folder / "cache.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise DataError(
                f"{path}: of format {description['format']}, wanted {FORMAT}: another version made it, which decodes "
                "some files otherwise. Make the cache again in a new folder: `lavie data cache CONFIG.yaml OUT`"
            )
        if description["dtype"] not in ENTRY_DTYPES or not isinstance(description["made"], dict):
            raise ValueError(f"dtype {description['dtype']!r}, made {description['made']!r}")
        return description
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error!r}. Make the cache again in a new folder") from None


def read_empty_text(folder: Path, description: Mapping[str, Any]) -> Tensor:
    """Return the features of the empty caption, (L, D), checked against the description's hash of them.

    Raises:
        DataError: empty.safetensors cannot be read, or differs from what was written.
    """
    empty_text = TensorFile(folder / "empty.safetensors", DELETE).read_tensor("text")[0]
    if hashlib.sha256(tensor_bytes(empty_text)).hexdigest() != description["empty_sha256"]:
        raise DataError(f"{folder / 'empty.safetensors'}: damaged. Make the cache again in a new folder")
    return empty_text


def require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Raise a DataError that names every field in which two mappings differ.

    Args:
        found: what the entries were made with, from cache.json.
        wanted: what the configuration at hand would make them with.
        where: the beginning of the message: a key or argument, and the folder.
    """
    wanted = json.loads(json.dumps(dict(wanted)))  # tuples become lists, as in the file
    differing = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if differing:
        fields = "; ".join(f"{name} is {found.get(name)!r}, wanted {wanted.get(name)!r}" for name in differing)
        raise DataError(
            f"{where}: made for something else: {fields}. Run `lavie data cache` again into a new folder, or change "
            "the config back"
        )
