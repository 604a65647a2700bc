"""What a run adds to the weights that it starts from."""

from pydantic import Field

from .base import LocalPath, OptionalPath, Strict


class AddDifferenceConfig(Strict):
    """What a community checkpoint has learnt, added to the spatial layers: W + scale (W_weights - W_original)."""

    weights: LocalPath
    """The community checkpoint: a single .safetensors or .ckpt of Stable Diffusion 1.x, or a folder in diffusers'
    format."""
    original: OptionalPath = None
    """What it was made from, and LaVie too: Stable Diffusion 1.4, as a single file or a folder. Default: null,
    `pretrained_model_name_or_path`."""
    scale: float = Field(0.5, ge=0)
    """lambda: 0 adds nothing, 1 moves the network as far as the community checkpoint has moved. Default: the middle of
    0.3 to 0.7, which is worth trying; nothing has been measured."""
