"""What the kernels are compiled for where there is no GPU: the shapes of the networks, and odd ones, by operation.

A case makes, on meta tensors, every launch that the operation would make at its shapes; see `launch.recording`.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from . import geglu, group_norm_silu, layer_norm, pseudo3d_conv, temporal_attention

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def _temporal_attention(
    size: int, head_dim: int, frames: int, dtype: torch.dtype, rotary_dim: int = 32, bias: bool = True, heads: int = 8
) -> None:
    """Launch both passes of an attention over the frames of one clip of `size` positions."""
    meta = torch.device("meta")
    qkv = torch.empty(1, frames, size, 3, heads, head_dim, dtype=dtype, device=meta)
    table = torch.empty(heads, frames, frames, dtype=dtype, device=meta) if bias else None
    turn = torch.empty(frames, rotary_dim // 2, dtype=torch.complex64, device=meta) if rotary_dim else None
    o = temporal_attention.forward(qkv, table, turn, head_dim**-0.5)
    temporal_attention.backward(o, qkv, table, turn, head_dim**-0.5)


TEMPORAL_ATTENTION: dict[str, Callable[[], None]] = {
    "base level 0": partial(_temporal_attention, 40 * 64, 40, 16, BF16),
    "base level 1": partial(_temporal_attention, 20 * 32, 80, 16, BF16),
    "base level 2": partial(_temporal_attention, 10 * 16, 160, 16, BF16),
    "base level 0, fp16": partial(_temporal_attention, 40 * 64, 40, 16, FP16),
    "base level 0, fp32": partial(_temporal_attention, 40 * 64, 40, 16, FP32),
    "base level 2, fp32": partial(_temporal_attention, 10 * 16, 160, 16, FP32),
    "VSR level 1": partial(_temporal_attention, 160 * 256, 64, 8, BF16),
    "VSR level 3": partial(_temporal_attention, 40 * 64, 128, 8, BF16),
    "VSR level 3, 16 frames": partial(_temporal_attention, 40 * 64, 128, 16, BF16),
    "interpolation level 0": partial(_temporal_attention, 40 * 64, 40, 61, BF16, 0, False),
    "interpolation level 1": partial(_temporal_attention, 20 * 32, 80, 61, BF16, 0, False),
    "interpolation level 2": partial(_temporal_attention, 10 * 16, 160, 61, BF16, 0, False),
    "interpolation level 1, fp32": partial(_temporal_attention, 20 * 32, 80, 61, FP32, 0, False),
    "61 frames with RoPE and bias": partial(_temporal_attention, 10 * 16, 160, 61, BF16),
    "32 frames": partial(_temporal_attention, 10 * 16, 160, 32, BF16),
    "smoke": partial(_temporal_attention, 8 * 8, 32, 8, FP32, heads=2),
}


def _group_norm_silu(
    dtype: torch.dtype, channels: int, size: tuple[int, int], frames: int, images: int, pool_images: bool, silu: bool
) -> None:
    """Launch both passes of a norm of 32 groups, the backward pass with and without what it adds and gives again."""
    settings = (frames, images, pool_images, silu)
    x = torch.empty(frames + images, channels, *size, dtype=dtype, device="meta")
    weight, bias = x.new_empty(2, channels)
    y, mean, rstd = group_norm_silu.forward(x, weight, bias, 32, 1e-5, *settings)
    group_norm_silu.backward(y, x, weight, bias, mean, rstd, 32, *settings, None, False)
    group_norm_silu.backward(y, x, weight, bias, mean, rstd, 32, *settings, x, True)


_NORMS = {
    "base level 0, resnet": (BF16, 320, (40, 64), 16, 4, False, True),
    "base level 0, resnet, skip": (BF16, 960, (40, 64), 16, 4, False, True),
    "base level 2, resnet, skip": (BF16, 2560, (10, 16), 16, 4, False, True),
    "base level 0, resnet, pooled with its images": (BF16, 320, (40, 64), 16, 4, True, True),
    "base level 1, transformer": (BF16, 640, (20, 32), 1, 0, False, False),
    "base level 0, resnet, fp32": (FP32, 320, (40, 64), 16, 4, False, True),
    "base level 0, resnet, fp16": (FP16, 320, (40, 64), 16, 4, False, True),
    "interpolation level 2, resnet": (BF16, 1280, (10, 16), 61, 0, False, True),
    "super-resolution level 0, resnet": (BF16, 256, (320, 512), 8, 0, False, True),
}
GROUP_NORM_SILU: dict[str, Callable[[], None]] = {
    name: partial(_group_norm_silu, *shape) for name, shape in _NORMS.items()
}


def _pseudo3d_conv(
    dtype: torch.dtype, taps: int, inputs: int, outputs: int, shape: tuple[int, int, int], added: str
) -> None:
    """Launch a convolution, and the gradients of its input and of its weight."""

    def empty(*size: int) -> Tensor:
        """Return a tensor on the meta device."""
        return torch.empty(size, dtype=dtype, device="meta")

    x, dy, weight = empty(*shape, inputs), empty(*shape, outputs), empty(outputs, inputs, taps)
    time = empty(shape[0], outputs) if "time" in added else None
    residual = empty(*shape, outputs) if "residual" in added else None
    pseudo3d_conv.forward(x, weight, empty(outputs), time, residual)
    pseudo3d_conv.forward(dy, weight.transpose(0, 1).flip(2), None, None, None)
    pseudo3d_conv.weight_gradient(dy, x, taps)


_CONVOLUTIONS = (
    (BF16, 5, 256, 256, (1, 8, 320 * 512), "time"),
    (BF16, 3, 256, 256, (1, 8, 320 * 512), "residual"),
    (BF16, 5, 512, 512, (2, 8, 320 * 512), "time"),
    (BF16, 3, 1024, 1024, (1, 8, 40 * 64), "residual"),
    (BF16, 3, 24, 40, (1, 5, 99), "time residual"),
    (FP16, 3, 512, 512, (1, 8, 160 * 256), "residual"),
    (FP32, 3, 512, 512, (1, 8, 160 * 256), "time residual"),
)
"""The super-resolution network's convolutions of 8 frames, and odd sizes: dtype, taps, input and output channels,
(batch, frames, positions), and what is added beside the bias."""
PSEUDO3D_CONV: dict[str, Callable[[], None]] = {
    f"{str(row[0]).removeprefix('torch.')} k{row[1]} {row[2]}-{row[3]} {row[5]}": partial(_pseudo3d_conv, *row)
    for row in _CONVOLUTIONS
}


def _geglu(dtype: torch.dtype, rows: int, inner: int) -> None:
    """Launch both passes of a GEGLU."""
    x = torch.empty(rows, 2 * inner, dtype=dtype, device="meta")
    geglu.backward(geglu.forward(x), x)


GEGLU: dict[str, Callable[[], None]] = {
    "base level 0": partial(_geglu, BF16, 20 * 40 * 64, 1280),
    "base level 0, fp16": partial(_geglu, FP16, 20 * 40 * 64, 1280),
    "base level 0, fp32": partial(_geglu, FP32, 20 * 40 * 64, 1280),
    "super-resolution level 1": partial(_geglu, BF16, 8 * 160 * 256, 2048),
}


def _layer_norm(dtype: torch.dtype, rows: int, channels: int, added: bool) -> None:
    """Launch both passes of a norm of all rows, or of four in five with a sum before it."""
    x = torch.empty(rows, channels, dtype=dtype, device="meta")
    weight, bias = x.new_empty(2, channels)
    n, *_ = layer_norm.forward(x, x if added else None, rows * 4 // 5 if added else rows, weight, bias, 1e-5)
    layer_norm.backward(n, x, x, weight, bias, 1e-5)


LAYER_NORM: dict[str, Callable[[], None]] = {
    "base level 0": partial(_layer_norm, BF16, 20 * 40 * 64, 320, True),
    "base level 0, first layer": partial(_layer_norm, BF16, 20 * 40 * 64, 320, False),
    "base level 1": partial(_layer_norm, BF16, 20 * 20 * 32, 640, True),
    "base level 2": partial(_layer_norm, BF16, 20 * 10 * 16, 1280, True),
    "base level 0, fp16": partial(_layer_norm, FP16, 20 * 40 * 64, 320, True),
    "base level 2, fp32": partial(_layer_norm, FP32, 20 * 10 * 16, 1280, True),
    "super-resolution level 1": partial(_layer_norm, BF16, 8 * 160 * 256, 512, False),
}

CASES = {
    "temporal_attention": TEMPORAL_ATTENTION,
    "group_norm_silu": GROUP_NORM_SILU,
    "pseudo3d_conv": PSEUDO3D_CONV,
    "geglu": GEGLU,
    "layer_norm": LAYER_NORM,
}
"""operation -> name of a case -> its launches."""
