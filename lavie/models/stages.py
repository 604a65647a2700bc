"""What the stages of the cascade have of their own: presets of the one VideoUNet, and which parameters train."""

from torch import nn

from ..config import UNetConfig

STAGES: dict[str, UNetConfig] = {
    # Stable Diffusion 1.4 with temporal attention in every transformer block: 909,124,100 parameters, to which the
    # released count of 909,124,116 adds the 16 rotary frequencies, constants here.
    "base": UNetConfig(),
}


def is_temporal(name: str) -> bool:
    """Whether a parameter belongs to the temporal part: it has no counterpart in the 2-D UNet."""
    return "_temp." in name


def set_trainable(network: nn.Module, which: str) -> None:
    """Let "all" parameters train, or only the "temporal" ones."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(which == "all" or is_temporal(name))
