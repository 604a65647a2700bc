"""The raw weights of a checkpoint, whole and in float32, from what each of its ranks wrote under any ZeRO stage.

1. DeepSpeed's own consolidation gives the parameters of stages 1 to 3, but for the frozen ones of stage 1.
2. Those, and all parameters of stage 0, are in the network's own state dict.
3. Where stage 0 trains in bf16, the float32 masters beside that state dict take the place of what trains.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from ..config.load import load_config
from ..errors import CheckpointError
from ..models.state_dict import require_fit, shapes
from ..models.trainable import set_trainable
from ..models.unet import VideoUNet
from ..run_folder import RUN_CONFIG

STATE = "state"
"""DeepSpeed's folder in a checkpoint."""
WHOLE = "mp_rank_00_model_states.pt"
"""The whole network as it computes, in a checkpoint of stages 0 to 2."""


def raw_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """Return the weights that a run would resume with, not averaged: float32, on the CPU, by name.

    Frozen parameters have the precision in which the run held them. Reading unpickles DeepSpeed's files, as resuming
    does: use it on checkpoints of your own.

    Args:
        checkpoint: a folder checkpoint-<step>.

    Raises:
        CheckpointError: `state/` is missing, incomplete, or of another network.
    """
    # The network on the meta device: its names in order, and which of them train.
    folder = Path(checkpoint) / STATE
    config = load_config(Path(checkpoint) / RUN_CONFIG)
    with torch.device("meta"):
        network = VideoUNet(config.model)
    set_trainable(network, config.trainable)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]

    try:
        weights = _read(folder, trained)
    except Exception as error:  # DeepSpeed and torch raise whatever a damaged pickle leads to
        raise CheckpointError(
            f"{folder}: DeepSpeed's files are missing or damaged: {type(error).__name__}: {error}; export without "
            "--raw, or another checkpoint"
        ) from None
    require_fit(weights, shapes(network.state_dict()), str(folder), "config.yaml beside it")
    return {name: weights[name].float() for name in network.state_dict()}


def _read(folder: Path, trained: list[str]) -> dict[str, Tensor]:
    """Read every parameter of a checkpoint by name, on the CPU, by the three rules of this module.

    A parameter that trains has its float32 master, the copy that the optimizer updates. A frozen one has the dtype in
    which the run held it.

    Args:
        folder: DeepSpeed's folder in a checkpoint.
        trained: the names of the parameters that train, in the network's order: masters are stored without names.

    Raises:
        Exception: whatever DeepSpeed or torch raises if files are missing or damaged.
    """
    weights: dict[str, Tensor] = {}
    if (folder / WHOLE).is_file():
        saved = torch.load(folder / WHOLE, map_location="cpu", weights_only=True, mmap=True)
        weights = dict(saved["module"])
        if saved["param_shapes"] is None:  # stage 0
            groups = saved["optimizer"].get("fp32_groups", [])  # masters under bf16 alone, in the network's order
            masters = [master for group in groups for master in group]
            return weights | dict(zip(trained, masters, strict=bool(groups)))

    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints its progress
        return weights | get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)
