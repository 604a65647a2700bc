"""What the interpolation stage is given beside the noisy latents: the nearest key frame for each frame."""

import torch
from torch import Tensor


def key_frame_of(frames: int, interval: int, device: torch.device | str = "cpu") -> Tensor:
    """Return which key frame each frame of an interpolated clip is conditioned on (paper, section 4.2).

    Key frame k stands at frame k * interval. A frame takes the nearest key frame, the earlier of two equally near. For
    the released interval of 4 that is min((i + 1) // 4, last).

    Returns:
        int64 (frames,).

    Raises:
        ValueError: the clip does not begin and end with a key frame.
    """
    if (frames - 1) % interval:
        raise ValueError(f"{frames} frames with a key frame every {interval}: wanted n * {interval} + 1 frames")
    i = torch.arange(frames, device=device)
    return ((i + (interval - 1) // 2) // interval).clamp(max=(frames - 1) // interval)


def spread_key_frames(keys: Tensor, interval: int) -> Tensor:
    """Repeat key frames over the frames they stand for: (B, C, K, h, w) -> (B, C, (K - 1) * interval + 1, h, w)."""
    return keys[:, :, key_frame_of((keys.shape[2] - 1) * interval + 1, interval, keys.device)]
