"""The section `lora` of the configuration: the adapters that `trainable: lora` trains."""

from typing import Literal

from pydantic import Field

from .base import Strict


class LoraConfig(Strict):
    """The adapters of `trainable: lora`: a weight W of the spatial part becomes W + alpha / rank * B @ A."""

    rank: int = Field(4, ge=1)
    """r, the number of columns of B and of rows of A; at most the width of the narrowest layer. Default: that of
    diffusers' training scripts."""
    alpha: float | None = Field(None, gt=0)
    """The change is scaled by alpha / rank. Default: null, the rank, as in diffusers' training scripts."""
    targets: Literal["attention", "kohya", "conv"] = "attention"
    """The layers with adapters. attention: queries, keys, values and outputs of the spatial transformers. kohya: every
    linear layer and 1x1 convolution of these, as kohya's scripts take. conv: the residual blocks and resamplers too.
    Default: attention, as in diffusers' training scripts."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share, 0 .. 1, of the ranks that each step leaves out of the change. Default: none."""
