"""The raw weights of a checkpoint, whole and in float32, from what each of its ranks wrote."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..config.load import load_config
from ..errors import CheckpointError
from ..manifest import damage, read_manifest
from ..models.state_dict import require_fit, shapes
from ..models.trainable import set_trainable
from ..models.unet import VideoUNet
from ..models.weights import WEIGHTS_NAME
from ..run_folder import NETWORK, RUN_CONFIG
from .checkpoint.ranges import STATE, RangeFiles
from .checkpoint.state import WEIGHTS


def raw_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """Return the weights that a run would resume with, not averaged: float32, on the CPU, by name.

    Frozen parameters have the precision in which the run held them.

    Args:
        checkpoint: a folder checkpoint-<step>.

    Raises:
        CheckpointError: it is damaged, or of another network.
    """
    folder = Path(checkpoint)
    manifest = read_manifest(folder)
    if fault := damage(folder, manifest):
        raise CheckpointError(f"{fault}; export another checkpoint")

    # The network on the meta device: its names in order, and which of them train.
    config = load_config(folder / RUN_CONFIG)
    with torch.device("meta"):
        network = VideoUNet(config.model)
    set_trainable(network, config.trainable)

    # What the folder holds to sample from has the frozen weights, and the averages of the others.
    weights = load_file(folder / NETWORK / WEIGHTS_NAME)
    require_fit(weights, shapes(network.state_dict()), str(folder), "config.yaml beside it")
    names = [name for name in manifest["files"] if name.startswith(f"{STATE}/")]
    with RangeFiles(folder, names, names[0]) as files:
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                flat = torch.empty(parameter.numel())
                files.fill(flat, WEIGHTS, name, 0)
                weights[name] = flat.view(parameter.shape)
    return {name: weights[name] for name in network.state_dict()}
