"""Files of weights from strangers, read as plain tensors: safetensors, or a pickle of torch, in which nothing is run.

A file is what its first bytes say, whatever its name. A pickle is read by `torch.load(weights_only=True)`. Of the names
that it does not know, those that the training code of Stable Diffusion leaves in its files (STAND_INS) become objects
of an empty class; any other name ends the reading.
"""

import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

STAND_INS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""Names in files of Stable Diffusion 1.x beside tensors and plain values: what the trainer kept of its progress."""
REFUSED = re.compile(r"GLOBAL (\S+) (?:was not|whose module)|recognized function <[a-z]+ (?:[a-z]+ )*'?([^ '>]+)")
"""What torch says of a name that it does not let in."""
HARMLESS = ("torch", "collections", "numpy")
"""Packages that files of tensors name too, by STACK_GLOBAL in the protocols of pickle that torch does not read."""
LONGEST_HEADER = 2**27
"""Bytes of a safetensors header, of which the format allows 100 MB."""


PICKLED = (b"PK\x03\x04", b"\x80")
"""How files of torch begin: a zip archive since version 1.6, a pickle before."""
SIGNS = (
    (b"<!doctype", "a web page: the download went wrong"),
    (b"<html", "a web page: the download went wrong"),
    (b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file"),
    (b"{", "JSON"),
)
"""How files begin that are often found in the place of weights, and what they are."""


class WeightFile(NamedTuple):
    """What a file of weights holds. Tensors may be views of the file, which is read as they are used."""

    path: Path
    tensors: dict[str, Tensor]
    """By name. Of a pickle: those of its "state_dict", if it has one; else its own, and those of dicts in it as
    `name.name`."""
    metadata: dict[str, str]
    """The texts in the header of a safetensors file."""
    content: Any = None
    """What a pickle holds; None for safetensors."""


class _Inert:
    """Stands for an object that is no tensor: takes whatever the file says of it, keeps nothing, and does nothing."""

    def __init__(self, *values: object) -> None:
        """Take what a constructor was given."""

    def __setstate__(self, state: object) -> None:
        """Take what the object was."""


def read_weight_file(path: str | Path) -> WeightFile:
    """Return the tensors in a safetensors file or a pickle of torch.

    Raises:
        CheckpointError: the file is neither, is damaged, or names something that would be run.
    """
    path = Path(path)
    if not is_safetensors(path, unknown=path.suffix == ".safetensors"):
        content = read_torch_file(path)
        return WeightFile(path, _tensors(content), {}, content)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return WeightFile(path, tensors, file.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: no complete safetensors file: {safetensors_fault(path, error)}") from None


def read_torch_file(path: str | Path) -> Any:
    """Return what a pickle of torch holds: tensors and plain values. Nothing in it is run.

    Raises:
        CheckpointError: the file is no such pickle, is damaged, or names something that would be run.
    """
    path = Path(path)
    wanted = f"{path}: wanted a {path.suffix or 'file'} of plain tensors (weights_only)"
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in STAND_INS]):
            if path.suffix == ".safetensors":  # by such a name, torch takes any file for safetensors
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            # Only zip archives can be mapped; files of torch before version 1.6 are none.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises whatever a damaged pickle leads to
        match = REFUSED.search(str(error))
        if name := (match[1] or match[2])[:80] if match else _call(path):
            raise CheckpointError(
                f"{wanted}, got one that names {name!a}. Nothing in it was run: do not use this file"
            ) from None
        raise CheckpointError(f"{wanted}, {_damage(path, error)}") from None


def _call(path: Path) -> str:
    """Return what a pickle would run first by opcodes of which torch tells no name, INST and STACK_GLOBAL; else ""."""
    texts, marked = ["", ""], False
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                [name] = [name for name in archive.namelist() if name.endswith("data.pkl")]
                pickles: IO[bytes] = archive.open(name)
        else:
            pickles = path.open("rb")
        with pickles:
            # A file of torch before version 1.6 has three short pickles before the one of the content.
            for _ in range(4):
                for opcode, argument, _ in pickletools.genops(pickles):
                    marked |= opcode.name == "MARK"
                    if opcode.name == "INST" and marked:  # without a mark it is the first letter of a text
                        return str(argument).replace(" ", ".")[:80]
                    if opcode.name == "STACK_GLOBAL" and texts[0].partition(".")[0] not in HARMLESS:
                        return ".".join(texts)[:80]
                    if isinstance(argument, str):
                        texts = [texts[1], argument]
    except Exception:  # whatever a damaged pickle leads to: then no name is known
        return ""
    return ""


def _damage(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that torch cannot read, without torch's advice to run what it holds."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return f"got: {_line(error)}"
    if not start:
        return "got a file that is empty"
    if what := next((kind for sign, kind in SIGNS if start.lstrip().lower().startswith(sign)), ""):
        return f"got {what}"
    if start[:2] != b"PK" and start[:1] != b"\x80":
        return "got one that is no PyTorch file"
    said = [line for line in str(error).splitlines() if "weights_only" not in line and "Weights only" not in line]
    if isinstance(error, KeyError | IndexError) or not "".join(said).strip():
        return "got one that is no PyTorch file, or damaged"
    return f"got: {type(error).__name__}: {next(line.strip() for line in said if line.strip())[:160]}"


def is_safetensors(path: Path, *, unknown: bool) -> bool:
    """Return whether a file is to be read as safetensors, by its first bytes and whatever its name.

    Args:
        path: the file.
        unknown: the answer for a file that begins neither as safetensors do, with a length of 8 bytes and the brace of
            a JSON object, nor as the files of torch, with the sign of a zip archive or of a pickle.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return False  # the reader of the other kind tells why
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LONGEST_HEADER:
        return True
    return unknown and not start.startswith(PICKLED)


def require_finite(file: Path, source: Path, instead: str) -> None:
    """Raise CheckpointError for the first tensor of a safetensors file that holds NaN or infinities.

    Args:
        file: read one tensor at a time.
        source: what messages call it.
        instead: what to do then.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            names = tensors.keys()
            spoilt = next((name for name in names if not bool(tensors.get_tensor(name).isfinite().all())), None)
    except SafetensorError as error:
        fault = safetensors_fault(file, error)
        raise CheckpointError(f"{source}: no complete safetensors file: {fault}") from None
    if spoilt is not None:
        raise CheckpointError(f"{source}: {spoilt} has values that are not finite: {instead}")


def safetensors_fault(path: Path, error: Exception) -> str:
    """Return why a file is no safetensors: what it is instead, as far as its first bytes say it, or the error."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return _line(error)
    what = next((kind for sign, kind in SIGNS if start.lstrip().lower().startswith(sign)), "")
    if start.startswith(PICKLED) and start[8:9] != b"{":
        what = "a pickle of torch, or a zip archive"
    return f"it is {what or 'empty'}" if what or not start else _line(error)


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name in what a pickle holds; see `WeightFile.tensors`."""
    if not isinstance(content, Mapping):
        return {}
    state = content.get("state_dict")
    found: dict[str, Tensor] = {}
    for name, value in (state if isinstance(state, Mapping) else content).items():
        inner = value.items() if isinstance(value, Mapping) else ()
        for key, tensor in ((name, value), *((f"{name}.{key}", each) for key, each in inner)):
            if isinstance(key, str) and isinstance(tensor, Tensor):
                found[key] = tensor
    return found


def _line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message, shortened."""
    return f"{type(error).__name__}: {' '.join(str(error).splitlines()[:1])[:160]}"
