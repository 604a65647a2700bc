"""What the stages of the cascade have of their own: presets of the one VideoUNet, and which parameters train."""

from torch import nn

from ..config.model import UNetConfig

STAGES: dict[str, UNetConfig] = {
    # Stable Diffusion 1.4 with temporal attention in every transformer block: 909,124,100 parameters, to which the
    # released count of 909,124,116 adds the 16 rotary frequencies, constants here.
    "base": UNetConfig(),
    # The same skeleton with four condition channels: 909,131,524 parameters.
    "interpolation": UNetConfig(
        in_channels=8,
        spatial_attention="first_and_previous",
        temporal_order="after_feed_forward",
        rotary_dim=0,
        relative_bias=False,
    ),
    # Stable Diffusion's x4 upscaler with temporal attention and temporal convolutions: 691,036,420 parameters (and
    # 16 rotary frequencies); the pixels of the low resolution are its condition.
    "vsr": UNetConfig(
        in_channels=7,
        block_out_channels=(256, 512, 512, 1024),
        cross_attention=(False, True, True, True),
        only_cross_attention=(True, True, True, False),
        cross_attention_dim=1024,
        linear_projection=True,
        num_noise_levels=1000,
        max_noise_level=350,
        temporal_convolutions=True,
    ),
}
"""The released networks. What a column of a comparison would say is what differs from UNetConfig's defaults."""


def is_temporal(name: str) -> bool:
    """Whether a parameter belongs to the temporal part: it has no counterpart in the 2-D UNet."""
    return "_temp." in name or "temporal" in name


def set_trainable(network: nn.Module, which: str) -> None:
    """Let "all" parameters train, or only the "temporal" ones."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(which == "all" or is_temporal(name))
