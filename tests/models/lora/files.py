"""LoRA files of random numbers in the layouts of other programs, and what they are to change."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lavie.models.lora.adapter import target_modules
from lavie.models.lora.names import weight_shape
from lavie.models.unet import VideoUNet


@dataclass
class Made:
    """The factors of one layer."""

    up: Tensor
    """(out, r) or (out, r, 1, 1)."""
    down: Tensor
    """(r, in) or (r, in, kh, kw)."""
    alpha: float

    @property
    def delta(self) -> Tensor:
        """The change, float64, in the shape of the weight."""
        product = self.up.double().flatten(1) @ self.down.double().flatten(1)
        return (self.alpha / len(self.down) * product).reshape(len(self.up), *self.down.shape[1:])


def made(network: VideoUNet, targets: str = "conv", *, mixed: bool = False, seed: int = 0) -> dict[str, Made]:
    """Return random factors for every layer of `targets`: of rank and alpha 3, or of all kinds of both."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number, (name, module) in enumerate(target_modules(network, targets).items()):
        shape, rank = weight_shape(module), 2 + number % 3 if mixed else 3
        down = torch.randn(rank, *shape[1:], generator=generator)
        up = torch.randn(shape[0], rank, *(1,) * (len(shape) - 2), generator=generator) / 50
        found[name] = Made(up, down, [1.0, 4.0, 0.5, 8.0][number % 4] if mixed else 3.0)
    return found


def made_text(layers: int = 2, width: int = 32, seed: int = 1) -> dict[str, Made]:
    """Return random factors for the attention and the MLPs of CLIP's text model, by transformers' newer names."""
    generator = torch.Generator().manual_seed(seed)
    names = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")] + ["mlp.fc1", "mlp.fc2"]
    found = {}
    for name in (f"encoder.layers.{layer}.{name}" for layer in range(layers) for name in names):
        up, down = torch.randn(2, 2, width, generator=generator)
        found[name] = Made(up.T / 50, down, 2.0)
    return found


def save_kohya(path: Path, unet: dict[str, Made], text: dict[str, Made] | None = None, **metadata: str) -> Path:
    """Write a file as kohya's scripts and A1111 have it."""
    tensors = {}
    for prefix, layers in (("lora_unet_", unet), ("lora_te_text_model_", text or {})):
        for name, layer in layers.items():
            flat = prefix + name.replace(".", "_")
            tensors |= {f"{flat}.lora_up.weight": layer.up, f"{flat}.lora_down.weight": layer.down}
            tensors[f"{flat}.alpha"] = torch.tensor(layer.alpha)
    return save(path, tensors, metadata)


def save_diffusers(path: Path, unet: dict[str, Made], text: dict[str, Made] | None = None) -> Path:
    """Write a file as diffusers does: two kinds of ends in one file, and alpha in the header."""
    tensors = {}
    for prefix, layers in (("unet.", unet), ("text_encoder.text_model.", text or {})):
        for name, layer in layers.items():
            up, down = ("lora.up", "lora.down") if ".attn" in name else ("lora_B", "lora_A")
            tensors |= {f"{prefix}{name}.{up}.weight": layer.up, f"{prefix}{name}.{down}.weight": layer.down}
    one = next(iter(unet.values()))
    said = {"unet.r": len(one.down), "unet.lora_alpha": one.alpha, "text_encoder.r": 2, "text_encoder.lora_alpha": 2}
    return save(path, tensors, {"lora_adapter_metadata": json.dumps(said)})


def save_old_diffusers(path: Path, unet: dict[str, Made], text: dict[str, Made] | None = None) -> Path:
    """Write a file as diffusers did in 2023: attention alone, the layer's name in the end, no alpha."""
    tensors = {}
    for name, layer in unet.items():
        module, _, projection = name.removesuffix(".0").rpartition(".")
        for part, tensor in (("up", layer.up), ("down", layer.down)):
            tensors[f"unet.{module}.processor.{projection}_lora.{part}.weight"] = tensor
    for name, layer in (text or {}).items():
        for part, tensor in (("up", layer.up), ("down", layer.down)):
            tensors[f"text_encoder.text_model.{name}.lora_linear_layer.{part}.weight"] = tensor
    return save(path, tensors)


def save_peft(folder: Path, layers: dict[str, Made], **settings: object) -> Path:
    """Write a folder as peft does, with the ranks and alphas of single layers where they differ."""
    folder.mkdir(parents=True)
    tensors = {}
    for name, layer in layers.items():
        prefix = f"base_model.model.{name}"
        tensors |= {f"{prefix}.lora_A.weight": layer.down, f"{prefix}.lora_B.weight": layer.up}
    save(folder / "adapter_model.safetensors", tensors)
    one = next(iter(layers.values()))
    values = {
        "peft_type": "LORA",
        "r": len(one.down),
        "lora_alpha": one.alpha,
        "rank_pattern": {name: len(layer.down) for name, layer in layers.items()},
        "alpha_pattern": {name: layer.alpha for name, layer in layers.items()},
        "target_modules": list(layers),
    }
    (folder / "adapter_config.json").write_text(json.dumps(values | settings))
    return folder


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write tensors as safetensors."""
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata)
    return path
