"""What lies in a file or folder that may be a LoRA: tensors, texts about them, and peft's settings. Nothing is run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Size, Tensor

from ...errors import CheckpointError
from ...run_folder import EXPORT, MANIFEST, NETWORK
from ..torch_file import is_safetensors, read_torch_file, safetensors_fault
from ..weights import read_json
from .recognise import WANTED

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
DIFFUSERS_WEIGHTS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Endings of files that torch.save wrote, where their first bytes do not say it. They are read as plain tensors."""
DEEPEST = 16
"""Dicts within one another in a pickle, beyond which it is no file of a program that makes LoRAs."""
TEXT_FOLDER = "text_encoder"
"""The subfolder of a peft folder that holds the adapter of the text encoder."""


@dataclass(frozen=True)
class Contents:
    """A file, or one of the adapters of a peft folder."""

    source: str
    """What messages call it."""
    keys: Mapping[str, Size]
    """The shapes of the tensors, by key."""
    load: Callable[[], dict[str, Tensor]] = field(repr=False)
    """Reads the tensors."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The texts in the header of a safetensors file."""
    peft: Mapping[str, Any] | None = None
    """The content of peft's adapter_config.json."""
    text: bool = False
    """Whether it is the adapter of a text encoder as a whole."""


def open_lora(path: str | Path) -> list[Contents]:
    """Return what lies at `path`: a file, a folder that diffusers or peft wrote, or peft's of UNet and text encoder.

    Raises:
        CheckpointError: there is nothing, or nothing that could be a LoRA.
    """
    path = Path(path)
    if path.is_file():
        return [_open_file(path)]
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder: {WANTED}")
    for name in DIFFUSERS_WEIGHTS:
        if (path / name).is_file():
            return [_open_file(path / name)]

    # peft's adapters: of the UNet in the folder itself or in unet/, of the text encoder in text_encoder/.
    adapters = [
        _open_peft(folder, text)
        for folder, text in ((path, False), (path / NETWORK, False), (path / TEXT_FOLDER, True))
        if (folder / PEFT_CONFIG).is_file()
    ]
    if adapters:
        return adapters
    signs = ((EXPORT, "an exported folder"), (MANIFEST, "a checkpoint"), ("model_index.json", "a diffusers pipeline"))
    what = next((kind for name, kind in signs if (path / name).is_file()), "a folder without a LoRA")
    raise CheckpointError(
        f"{path} is {what}: {WANTED}, as a file, or a folder with {DIFFUSERS_WEIGHTS[0]} or {PEFT_CONFIG}"
    )


def _open_peft(folder: Path, text: bool) -> Contents:
    """Return the adapter in a folder of peft's."""
    config = read_json(folder / PEFT_CONFIG)
    for name in PEFT_WEIGHTS:
        if (folder / name).is_file():
            found = _open_file(folder / name)
            return Contents(found.source, found.keys, found.load, found.metadata, config, text)
    raise CheckpointError(f"{folder} has {PEFT_CONFIG} and no {PEFT_WEIGHTS[0]}: the adapter's weights are missing")


def _open_file(path: Path) -> Contents:
    """Return what a file holds; of a safetensors file, only its header is read."""
    if not is_safetensors(path, unknown=path.suffix not in PICKLES):
        tensors = _read_pickle(path)
        return Contents(str(path), {key: tensor.shape for key, tensor in tensors.items()}, lambda: tensors)
    try:
        with safe_open(path, "pt") as file:
            keys = {key: Size(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: no complete safetensors file ({safetensors_fault(path, error)}): {WANTED}"
        ) from None

    def load() -> dict[str, Tensor]:
        """Read the tensors of the file."""
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in keys}

    return Contents(str(path), keys, load, metadata)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors that a file of torch.save holds, those of dicts in it under their joined keys."""
    content = read_torch_file(path)
    found: dict[str, Tensor] = {}
    seen: set[int] = set()

    def collect(prefix: str, value: Any, depth: int) -> None:
        """Take the tensors of `value` into `found`."""
        if isinstance(value, Tensor):
            found[prefix] = value.detach()
        elif isinstance(value, Mapping):
            # A pickle can name one dict many times, even within itself: then there is no end of keys.
            if id(value) in seen or depth > DEEPEST:
                what = "holds one dict twice" if id(value) in seen else f"nests dicts more than {DEEPEST} deep"
                raise CheckpointError(f"{path}: it {what}: {WANTED}")
            seen.add(id(value))
            for key, inner in value.items():
                if isinstance(key, str):
                    collect(f"{prefix}.{key}" if prefix else key, inner, depth + 1)

    inner = content.get("state_dict", content) if isinstance(content, dict) else content
    collect("", inner, 0)
    return found
