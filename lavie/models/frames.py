"""How the frames of clips and images lie in a folded batch."""

from typing import NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """What a folded joint batch holds: B clips of `video` frames, then `images` independent images for each."""

    video: int
    images: int
    pool_images: bool = False
    """Whether images share the GroupNorm statistics of their clip."""

    @property
    def total(self) -> int:
        return self.video + self.images

    @property
    def clip(self) -> "Frames":
        """The clips alone."""
        return Frames(self.video, 0)

    def fold(self, sample: Tensor) -> Tensor:
        """(B, C, video + images, H, W) -> (B * (video + images), C, H, W), channels last.

        Free for clips whose memory is (B, F, H, W, C); otherwise the network's one layout copy, of a few channels.
        """
        x = sample.permute(0, 2, 3, 4, 1)
        x = self.join(*x.split([self.video, self.images], 1)) if self.images else x.flatten(0, 1).contiguous()
        return x.permute(0, 3, 1, 2)

    def unfold(self, x: Tensor) -> Tensor:
        """The inverse of `fold`; its memory is (B, video + images, H, W, C)."""
        clips, images = self.split(x.permute(0, 2, 3, 1))
        return (torch.cat([clips, images], 1) if self.images else clips).permute(0, 4, 1, 2, 3)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B * (video + images), ...) -> views (B, video, ...) and (B, images, ...)."""
        batch = x.shape[0] // self.total
        # A part of everything is taken as it is: the gradient of a split is a concatenation.
        clips, images = x.split([batch * self.video, batch * self.images]) if self.images else (x, x[:0])
        return clips.unflatten(0, (batch, self.video)), images.unflatten(0, (batch, self.images))

    def join(self, clips: Tensor, images: Tensor) -> Tensor:
        """(B, video, ...) and (B, images, ...) -> (B * (video + images), ...)."""
        return torch.cat([clips.flatten(0, 1), images.flatten(0, 1)]) if self.images else clips.flatten(0, 1)
