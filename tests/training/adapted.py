"""Small runs that train adapters, and what became of their weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lavie.config.train import TrainConfig
from lavie.models.unet import VideoUNet
from lavie.models.weights import save_network
from tests.training.runs import make_config

STEPS = 3
LORA = {"rank": 2, "alpha": 3.0, "targets": "attention"}
"""alpha / rank is 1.5: no power of two, so that a file with it folded in rounds."""


def make_base(folder: Path, config: TrainConfig, seed: int = 5) -> Path:
    """Write a network whose temporal layers do something, as the base of adapters, and return its folder."""
    torch.manual_seed(seed)
    network = VideoUNet(config.model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    save_network(folder, config.model, network.state_dict())
    return folder


def adapted_config(rendered: Path, output: Path, base: Path, **changes: Any) -> TrainConfig:
    """Return a small run of adapters on a base; arguments as for `make_config`."""
    values: dict[str, Any] = {
        "trainable": "lora",
        "lora": LORA,
        "init_weights": str(base),
        "max_train_steps": STEPS,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 0,
        "adam_weight_decay": 0.0,
        "data": {"num_frames": 2, "num_images": 1, "height": 16, "width": 16},
    }
    values["data"] |= changes.pop("data", {})
    return make_config(rendered, output, **(values | changes))


def hashes(state: dict[str, torch.Tensor]) -> dict[str, str]:
    """Return the SHA-256 of each tensor's bytes, by name."""
    return {name: hashlib.sha256(w.float().numpy().tobytes()).hexdigest() for name, w in state.items()}


def train_adapters(config: TrainConfig, settings: Path) -> dict[str, str]:
    """Train a run on this rank, and return the hashes of its frozen weights as the engine holds them then."""
    from lavie.models.lora.adapter import is_adapter
    from lavie.training.ema import gathered_weights
    from lavie.training.trainer import Trainer

    trainer = Trainer(config, settings)
    trainer.fit()
    return hashes(dict(gathered_weights(trainer.engine.module, None, lambda name: not is_adapter(name))))


def train_and_average(config: TrainConfig, settings: Path, folder: Path) -> int:
    """Train a run on this rank, and write the network that validation would sample from into a folder.

    Returns:
        The bytes that the run takes a checkpoint to need on the disk.
    """
    from lavie.training.trainer import Trainer
    from lavie.training.validate import averaged_network

    trainer = Trainer(config, settings)
    trainer.fit()
    network = averaged_network(trainer.engine.module, trainer.ema, config, trainer.device)
    save_network(folder, config.model, network.state_dict())
    return trainer.saver.bytes_needed()


def adapters(config: TrainConfig, step: int) -> dict[str, torch.Tensor]:
    """Return the adapters that a run's checkpoint holds for sampling, by plain name; B has alpha / r in it."""
    file = Path(config.output_dir) / f"checkpoint-{step}" / "lora" / "pytorch_lora_weights.safetensors"
    return {name.removeprefix("unet."): value for name, value in load_file(file).items()}


def state(config: TrainConfig, step: int) -> dict[str, torch.Tensor]:
    """Return what all ranks wrote of a run's state at a step, whole and flat, by KIND/NAME."""
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for path in (Path(config.output_dir) / f"checkpoint-{step}" / "state").iterdir():
        with safe_open(path, "pt") as file:
            ranges = json.loads(file.metadata()["ranges"])
            for key in file.keys():  # noqa: SIM118 - no mapping
                pieces.setdefault(key, []).append((ranges[key.partition("/")[2]][0], file.get_tensor(key)))
    whole = {key: sorted(parts, key=lambda part: part[0]) for key, parts in pieces.items()}
    return {key: torch.cat([values for _, values in parts]) for key, parts in whole.items()}
