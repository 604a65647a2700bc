"""Writing a LoRA so that no reader loses its strength: alpha / r is folded into B, and alpha is r.

Readers differ in what they do with alpha: some ignore it, some take the first one for all layers. Here every layer has
the same rank, that of the widest one, filled up with zeros; so there is one alpha, and it scales by 1.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import CheckpointError, ConfigError
from ...files import replacing, require_free
from ...tensor_file import write_tensors
from .adapter import adapters
from .attach import require_scale
from .change import Change, LowRank
from .contents import DIFFUSERS_WEIGHTS, PEFT_CONFIG, PEFT_WEIGHTS, TEXT_FOLDER
from .names import TEXT_ROOT
from .read import PEFT_METADATA, LoraFile

LoraLayout = Literal["diffusers", "kohya", "peft"]
Factors = dict[str, tuple[Tensor, Tensor]]
"""Modules and their B and A, whose products are the changes."""


def lora_of(network: nn.Module) -> LoraFile:
    """Return the adapters of a network as a LoRA, on the CPU; see `add_lora`.

    Args:
        network: whose parameters are at hand as a whole; under ZeRO-3 they must be gathered.
    """
    changes: dict[str, Change] = {
        f"{name}.weight": LowRank(part.lora_B.detach().cpu(), part.lora_A.detach().cpu(), None, part.alpha / part.rank)
        for name, part in adapters(network).items()
    }
    return LoraFile("the network's adapters", "", changes, {})


def write_lora(
    file: LoraFile,
    out: str | Path,
    layout: LoraLayout = "diffusers",
    *,
    metadata: Mapping[str, str] | None = None,
    scale: float = 1.0,
    overwrite: bool = False,
) -> list[Path]:
    """Write a LoRA in float32, with alpha / r folded into B and alpha = r, and return the files.

    Args:
        file: of changes of low rank only.
        out: diffusers: a folder, in which pytorch_lora_weights.safetensors is made, or a .safetensors file. kohya: a
            .safetensors file. peft: a folder; the adapter of the text encoder lies in its text_encoder/.
        layout: whose reader shall open it; kohya's is A1111's too.
        metadata: texts for the header of the file.
        scale: what the changes are multiplied by.
        overwrite: whether a LoRA that lies at `out` may be replaced.

    Raises:
        CheckpointError: a change is of another kind, which has no exact form of low rank.
        ConfigError: `out` is taken, or of the wrong kind; the scale is out of -100 .. 100, or float32 does not hold
            the changes.
    """
    require_scale(scale, "--scale")
    out = Path(out)
    unet, text = _factors(file.source, file.unet, scale), _factors(file.source, file.text, scale)
    rank = max((down.shape[0] for _, down in (*unet.values(), *text.values())), default=0)
    if not rank:
        raise CheckpointError(f"{file.source}: no change to write")
    unet, text = _filled(unet, rank), _filled(text, rank)
    if layout == "peft":
        return _write_peft(out, unet, text, rank, overwrite)
    if layout == "kohya" and out.suffix != ".safetensors":
        raise ConfigError(f"OUT {out}: the layout kohya is one file: wanted a name that ends in .safetensors")
    path = out if out.suffix == ".safetensors" else out / DIFFUSERS_WEIGHTS[0]
    require_free(path, overwrite=overwrite, replaceable=Path.is_file)
    tensors, header = _kohya(unet, text, rank) if layout == "kohya" else _diffusers(unet, text, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, tensors, {**header, **(metadata or {})})
    return [path]


def _factors(source: str, changes: Mapping[str, Change], scale: float) -> Factors:
    """Return scale * B and A of every change, by module."""
    found = {}
    for name, change in changes.items():
        if not isinstance(change, LowRank):
            raise CheckpointError(
                f"{source}: the change of {name} is of kind {type(change).__name__}, which no LoRA holds without loss: "
                "lavie lora merge writes it into a network"
            )
        up, down = change.factors()
        up = scale * up
        if not bool(up.isfinite().all() and down.isfinite().all()):
            raise ConfigError(
                f"--scale {scale:g}: {source}: the change of {name}, times it, is not finite in float32: give a "
                "smaller one"
            )
        found[name.removesuffix(".weight")] = up, down
    return found


def _filled(factors: Factors, rank: int) -> Factors:
    """Return B (out, rank[, 1, 1]) and A (rank, in[, kh, kw]), the ranks that they lack as zeros."""
    filled = {}
    for name, (up, down) in factors.items():
        more = rank - down.shape[0]
        up, down = F.pad(up, (0, more)), F.pad(down, (0, 0) * (down.ndim - 1) + (0, more))
        filled[name] = up.reshape(*up.shape, *(1,) * (down.ndim - 2)), down
    return filled


def _diffusers(unet: Factors, text: Factors, rank: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of pytorch_lora_weights.safetensors, and the header that tells diffusers the alphas."""
    tensors: dict[str, Tensor] = {}
    said: dict[str, object] = {}
    for prefix, root, factors in (("unet.", "", unet), ("text_encoder.", TEXT_ROOT, text)):
        for name, (up, down) in factors.items():
            tensors[f"{prefix}{root}{name}.lora_A.weight"] = down
            tensors[f"{prefix}{root}{name}.lora_B.weight"] = up
        if factors:
            # transformers 5.6 and later have no root, and match names that end in these; so do earlier ones.
            settings = {"r": rank, "lora_alpha": rank, "target_modules": sorted(factors), "peft_type": "LORA"}
            said |= {f"{prefix}{key}": value for key, value in settings.items()}
    return tensors, {"format": "pt", PEFT_METADATA: json.dumps(said, sort_keys=True)}


def _kohya(unet: Factors, text: Factors, rank: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file of kohya's layout, and its header."""
    tensors = {}
    for prefix, factors in (("lora_unet_", unet), ("lora_te_text_model_", text)):
        for name, (up, down) in factors.items():
            flat = prefix + name.replace(".", "_")
            tensors[f"{flat}.lora_down.weight"], tensors[f"{flat}.lora_up.weight"] = down, up
            tensors[f"{flat}.alpha"] = down.new_tensor(float(rank))
    said = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(float(rank))}
    return tensors, said


def _write_peft(out: Path, unet: Factors, text: Factors, rank: int, overwrite: bool) -> list[Path]:
    """Write a folder for peft, and one in it for the text encoder if that changes."""
    require_free(out, overwrite=overwrite, replaceable=_is_peft)
    written = []
    for folder, factors in ((out, unet), (out / TEXT_FOLDER, text)):
        if not factors:
            _remove_peft(folder)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, (up, down) in factors.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = down
            tensors[f"base_model.model.{name}.lora_B.weight"] = up
        _write(folder / PEFT_WEIGHTS[0], tensors, {"format": "pt"})
        settings = {
            "peft_type": "LORA",
            "base_model_name_or_path": None,
            "task_type": None,
            "inference_mode": True,
            "r": rank,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted(factors),
        }
        with replacing(folder / PEFT_CONFIG) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
        written += [folder / PEFT_WEIGHTS[0], folder / PEFT_CONFIG]
    return written


def _is_peft(path: Path) -> bool:
    """Return whether peft's adapter lies in a folder."""
    return (path / PEFT_CONFIG).is_file() or (path / TEXT_FOLDER / PEFT_CONFIG).is_file()


def _remove_peft(folder: Path) -> None:
    """Delete the adapter that lies in a folder, if one does, and the folder of the text encoder if that empties it.

    It is the part of an earlier file which the new one lacks: a reader would take it for the new one's.
    """
    if not (folder / PEFT_CONFIG).is_file():
        return
    for name in (PEFT_CONFIG, *PEFT_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if folder.name == TEXT_FOLDER and not any(folder.iterdir()):
        folder.rmdir()


def _write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all, with its tensors in the order of their names."""
    with replacing(path) as temporary:
        write_tensors(temporary, {name: tensors[name].contiguous() for name in sorted(tensors)}, header)
