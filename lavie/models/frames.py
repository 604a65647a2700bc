"""How the frames of clips and images lie in a folded batch."""

from typing import NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """The rows of a folded joint batch: B clips of `video` frames, then `images` independent images for each clip."""

    video: int
    images: int
    pool_images: bool = False
    """Whether images share the GroupNorm statistics of their clip."""

    @property
    def total(self) -> int:
        """Frames and images of one sample."""
        return self.video + self.images

    @property
    def clip(self) -> "Frames":
        """The same grouping without images."""
        return Frames(self.video, 0)

    def fold(self, sample: Tensor) -> Tensor:
        """Fold frames into the batch: (B, C, video + images, H, W) -> (B * (video + images), C, H, W).

        The result is channels last. It is free for clips whose memory is (B, F, H, W, C); otherwise it is the
        network's one layout copy, of a few channels.
        """
        x = sample.permute(0, 2, 3, 4, 1)
        x = self.join(*x.split([self.video, self.images], 1)) if self.images else x.flatten(0, 1).contiguous()
        return x.permute(0, 3, 1, 2)

    def unfold(self, x: Tensor) -> Tensor:
        """Undo `fold`; the memory of the result is (B, video + images, H, W, C)."""
        clips, images = self.split(x.permute(0, 2, 3, 1))
        return (torch.cat([clips, images], 1) if self.images else clips).permute(0, 4, 1, 2, 3)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split x (B * (video + images), ...) into views (B, video, ...) and (B, images, ...)."""
        batch = x.shape[0] // self.total
        # A part of everything is taken as it is: the gradient of a split is a concatenation.
        clips, images = x.split([batch * self.video, batch * self.images]) if self.images else (x, x[:0])
        return clips.unflatten(0, (batch, self.video)), images.unflatten(0, (batch, self.images))

    def join(self, clips: Tensor, images: Tensor) -> Tensor:
        """Undo `split`: (B, video, ...) and (B, images, ...) -> (B * (video + images), ...)."""
        return torch.cat([clips.flatten(0, 1), images.flatten(0, 1)]) if self.images else clips.flatten(0, 1)
