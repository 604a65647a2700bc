"""The manifest of a checkpoint: what it is the state of, and the size and hash of each of its files.

`checkpoint.json` is written last. It holds a hash of itself, so every bit of a checkpoint is covered:

    {"format": 2, "step": 400, "nonce": "9f...", ...,
     "files": {"unet/config.json": {"bytes": 412, "sha256": "..."}, ...},
     "seal": SHA-256 of all of the above}
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from .distributed import log
from .errors import CheckpointError
from .files import sha256_of
from .json_text import parse_json
from .run_folder import LORA, MANIFEST, NETWORK, RUN_CONFIG
from .tensor_file import FileRecord, write_text

FORMAT = 2
"""The layout of checkpoints. 1 was DeepSpeed's own files, and had no hashes."""
SEAL = "seal"


class OldLayoutError(CheckpointError):
    """A checkpoint has the layout that had no hashes; nothing need be wrong with it."""


def write_manifest(folder: Path, values: dict[str, Any], files: dict[str, FileRecord]) -> None:
    """Write a checkpoint's manifest and fsync it.

    Args:
        folder: the checkpoint's, with all of its files.
        values: what the checkpoint is, JSON's kinds of values by name.
        files: the files by their paths in `folder`.

    Raises:
        OSError: it cannot be written.
    """
    content = {"format": FORMAT, **values, "files": files}
    write_text(folder / MANIFEST, json.dumps({**content, SEAL: _seal(content)}, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint of this layout.

    Raises:
        OldLayoutError: the layout is the one before.
        CheckpointError: it is missing or damaged, belongs to another step, or the layout is a later one.
    """
    path, manifest = folder / MANIFEST, read_values(folder)
    if is_old(manifest):
        raise OldLayoutError(f"{folder}: its layout is of an earlier version: lavie checkpoint convert {folder}")
    seal = manifest.pop(SEAL, None)
    if seal != _seal(manifest):
        raise CheckpointError(f"{path}: damaged: it is not what its own hash says")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{folder}: layout {manifest['format']}, this version reads {FORMAT}: update lavie")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(is_inside(name) for name in files):
        raise CheckpointError(f"{path}: its files are no files of {folder}")
    if folder.name.startswith("checkpoint-") and folder.name != f"checkpoint-{manifest['step']}":
        raise CheckpointError(f"{folder}: holds step {manifest['step']}: rename it to checkpoint-{manifest['step']}")
    return manifest


def read_values(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a checkpoint says, of whatever layout; nothing is compared with its hash.

    Raises:
        CheckpointError: it is missing, or no JSON object.
    """
    path = folder / MANIFEST
    try:
        values = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: {MANIFEST} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: damaged: no JSON object")
    return values


def is_old(manifest: dict[str, Any]) -> bool:
    """Return whether a manifest is of the layout that had no hashes."""
    return not {"format", "files", SEAL} & manifest.keys()


def damage(
    folder: Path,
    manifest: dict[str, Any],
    names: Iterable[str] | None = None,
    *,
    hashes: bool = True,
    tick: Callable[[int], None] = lambda count: None,
) -> str | None:
    """Return what is wrong with the first damaged file of a checkpoint; None if all are whole.

    Args:
        folder: the checkpoint.
        manifest: as `read_manifest` returns it.
        names: which files to look at; by default all.
        hashes: whether the bytes are read and hashed, or only the sizes are compared.
        tick: is told the bytes of every file that is whole.
    """
    for name in manifest["files"] if names is None else names:
        record, path = manifest["files"][name], folder / name
        try:
            size = path.stat().st_size
            if size != record["bytes"]:
                return f"{path}: has {size} bytes, wanted {record['bytes']}"
            if hashes and sha256_of(path) != record["sha256"]:
                return f"{path}: its bytes have changed since it was written"
        except FileNotFoundError:
            return f"{path}: is missing"
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        tick(record["bytes"])
    return None


def fault_of(folder: Path, *, hashes: bool = True) -> str | None:
    """Return what is wrong with a folder as a checkpoint; None if it is whole, every byte of it.

    Args:
        folder: the checkpoint.
        hashes: whether the bytes are read and hashed, or only the sizes of the files are compared.
    """
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return str(error)
    return damage(folder, manifest, hashes=hashes)


def require_whole_network(folder: Path) -> None:
    """Check the files of a checkpoint from which a network is read, by their hashes.

    Folders without a manifest, such as exported ones, are let through; so are checkpoints of the layout that had no
    hashes, with a warning.

    Raises:
        CheckpointError: a file is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return
    try:
        manifest = read_manifest(folder)
    except OldLayoutError:
        log.warning(f"{folder}: its layout has no hashes, by which damaged weights would be found")
        return
    wanted = (f"{NETWORK}/", f"{LORA}/", RUN_CONFIG)
    names = [name for name in manifest["files"] if name.startswith(wanted)]
    if fault := damage(folder, manifest, names):
        raise CheckpointError(f"{fault}: take another checkpoint")


def is_inside(name: str) -> bool:
    """Return whether the path of a file stays in the folder that it is a path of."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _seal(content: dict[str, Any]) -> str:
    """Return the hash of a manifest's content, whatever the order of its names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
