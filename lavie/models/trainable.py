"""Which parameters of a VideoUNet are temporal, and which of them train."""

from torch import nn


def is_temporal(name: str) -> bool:
    """Return whether the parameter `name` belongs to the temporal part, which has no counterpart in the 2-D UNet."""
    return "_temp." in name or "temporal" in name


def set_trainable(network: nn.Module, which: str) -> None:
    """Let "all" parameters of `network` train, or only one part of it; `which` is a run's key `trainable`.

    Args:
        network: its parameters outside the part are frozen.
        which: "all", "temporal", or "spatial", which is what "temporal" leaves frozen.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(which == "all" or is_temporal(name) == (which == "temporal"))
