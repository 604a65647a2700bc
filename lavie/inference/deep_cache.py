"""DeepCache (Ma et al. 2024): steps that take the deep features of an earlier one, and compute the outer layers only.

The deep levels of a UNet change little from one denoising step to the next. Every n-th step runs the whole network and
keeps what enters the last layer of its way up; the steps between run the input convolution, that layer and the output.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.unet import VideoUNet


class DeepCache:
    """A network that is asked step by step, and keeps its deep features from one step to the next."""

    def __init__(self, network: nn.Module, interval: int) -> None:
        """Take the network of one clip's sampling, and how many steps share the deep features of the first of them.

        Raises:
            ConfigError: the interval is below 1, or the network has no levels that could be left out.
        """
        if interval < 1:
            raise ConfigError(f"cache_interval: got {interval}, wanted 1 (every step computes all) or more, as 3")
        if interval > 1 and not isinstance(network, VideoUNet):
            raise ConfigError(f"cache_interval: got {interval}, and {type(network).__name__} is no VideoUNet: wanted 1")
        self.network: Any = network
        self.interval = interval
        self.deep: dict[Hashable, Tensor] = {}

    def __call__(
        self, step: int, branch: Hashable, sample: Tensor, timestep: Tensor, text: Tensor, **given: Any
    ) -> Tensor:
        """Return the network's output at a denoising step.

        Args:
            step: its number, from 0.
            branch: tells calls of one step apart, as those of guidance; each keeps deep features of its own.
            sample, timestep, text, given: as for `VideoUNet.forward`.
        """
        if self.interval == 1:
            return self.network(sample, timestep, text, **given)
        if step % self.interval == 0:
            with torch.no_grad():
                return self._whole(branch, lambda: self.network(sample, timestep, text, **given))
        x, time, texts, frames = self.network.enter(sample, timestep, text, **given)
        x = self.network.up_blocks[-1].layer(-1, self.deep[branch], x, time, texts, frames, nn.Module.__call__)
        return self.network.leave(x, time, frames)

    def _whole(self, branch: Hashable, call: Callable[[], Tensor]) -> Tensor:
        """Call the whole network, and keep what enters its last layer beside the skip connection."""
        block = self.network.up_blocks[-1].resnets[-1]

        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            """Keep the layer's input, without the skip connection that comes with it."""
            self.deep[branch] = inputs[0]

        # Before FreeU's hooks: what is kept goes through them anew.
        hook = block.register_forward_pre_hook(keep, prepend=True)
        try:
            return call()
        finally:
            hook.remove()
