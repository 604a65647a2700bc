"""The raw weights of a checkpoint, whole and in float32, from what each of its ranks wrote."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..config.load import load_config
from ..errors import CheckpointError
from ..manifest import damage, read_manifest
from ..models.lora.adapter import merged_state, plain_name
from ..models.lora.trained import load_base
from ..models.state_dict import require_fit, shapes
from ..models.unet import VideoUNet
from ..models.weights import WEIGHTS_NAME
from ..run_folder import NETWORK, RUN_CONFIG
from .checkpoint.ranges import STATE, RangeFiles
from .checkpoint.state import WEIGHTS
from .trained_part import set_trained_part


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

    # The network: its names in order, and which of them train. Without adapters it is on the meta device, and what the
    # folder holds to sample from has the frozen weights, and the averages of the others.
    config = load_config(folder / RUN_CONFIG)
    adapted = config.trainable == "lora"
    with torch.device("meta"):
        network = VideoUNet(config.model)
    if adapted:
        network = load_base(folder, config)
    set_trained_part(network, config)
    if adapted:
        weights = network.state_dict()
    else:
        weights = load_file(folder / NETWORK / WEIGHTS_NAME)
        require_fit(weights, shapes(network.state_dict()), str(folder), "config.yaml beside it")
    names = [name for name in manifest["files"] if name.startswith(f"{STATE}/")]
    with RangeFiles(folder, names, names[0]) as files:
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                flat = torch.empty(parameter.numel())
                files.fill(flat, WEIGHTS, plain_name(name), 0)
                weights[name] = flat.view(parameter.shape)
    if adapted:
        network.load_state_dict(weights)
        return merged_state(network)
    return {name: weights[name] for name in network.state_dict()}
