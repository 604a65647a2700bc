"""The joint image-video loss: L_V + alpha L_I, each a mean over its own frames (LaVie, Eq. 3-4)."""

from typing import NamedTuple

import torch
from torch import Tensor

from .schedule import PredictionType


class JointLoss(NamedTuple):
    """The joint loss and its two parts, scalars in float32. A part without frames is 0."""

    total: Tensor
    """video + alpha * image: the sum that is differentiated."""
    video: Tensor
    """L_V, before alpha."""
    image: Tensor
    """L_I, before alpha."""


def joint_loss(
    output: Tensor,
    target: Tensor,
    *,
    num_images: int,
    image_loss_weight: float,
    weight: Tensor | None = None,
) -> JointLoss:
    """Return the squared error of the clip's frames plus alpha times that of the images (LaVie, Eq. 3-4), in float32.

    Args:
        output: (B, C, F+N, H, W), any float dtype: F frames of a clip, then N images. F or N may be 0.
        target: like `output`.
        num_images: N.
        image_loss_weight: alpha.
        weight: (B,), a factor for each row's error, as from `min_snr_weight`.

    Raises:
        ValueError: the shapes differ, or there are fewer frames than images.
    """
    if output.shape != target.shape or output.dim() != 5:
        raise ValueError(f"output {tuple(output.shape)}, target {tuple(target.shape)}: wanted one (B, C, F+N, H, W)")
    num_frames = output.shape[2] - num_images
    if num_frames < 0 or num_images < 0:
        raise ValueError(f"num_images is {num_images}, but the batch has {output.shape[2]} frames in all")
    error = (output.float() - target.float()).square().mean(dim=(1, 3, 4))
    if weight is not None:
        error = error * weight.float()[:, None]
    zero = torch.zeros((), device=error.device)
    video = error[:, :num_frames].mean() if num_frames else zero
    image = error[:, num_frames:].mean() if num_images else zero
    return JointLoss(video + image_loss_weight * image, video, image)


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Return the factor of min-SNR-gamma on each row's loss (Hang et al. 2023, Sec. 3.4).

    It turns the loss on the prediction into the loss on x_0 with its weight clamped to `gamma`: min(snr, gamma) / snr
    for epsilon, min(snr, gamma) / (snr + 1) for v_prediction.

    Args:
        snr: (B,), as `NoiseSchedule.snr` gives it.
        gamma: 5 in the paper.

    Returns:
        (B,), like `snr`.
    """
    clamped = snr.clamp(max=gamma)
    return clamped / snr if prediction_type == "epsilon" else clamped / (snr + 1)
