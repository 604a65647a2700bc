"""Benchmark of the temporal convolution and of the residual block, at the super-resolution network's shapes.

    python -m lavie.kernels.bench.pseudo3d_conv

Convolutions take clips (B, F, S, C), blocks folded frames (B * F, C, H, W) in channels last: the same memory. The
released network holds (B, C, F, H, W) contiguous: its way starts from leaves in that order.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.backend import Backend
from ...ops.group_norm_silu import group_norm_silu
from ...ops.pseudo3d_conv import pseudo3d_block, pseudo3d_conv
from ..cost import Cost
from ..pseudo3d_conv import cost
from .check import Case, Way
from .harness import main

FRAMES, GROUPS, EPS = 8, 32, 1e-6
RELEASED_CLIPS, RELEASED_FRAMES = (0, 3, 1, 2), (1, 0, 2, 3)
"""How clips (B, F, S, C) and the folded frames (F, C, H, W) of one lie in the released network."""
CUDNN_FLOOR = 91500
"""Older versions of cuDNN compute wrong bfloat16 3-D convolutions, or PyTorch avoids them for a slow path."""


class Conv(NamedTuple):
    """A temporal convolution: the first of a block adds the time embedding, the second the residual."""

    taps: int
    channels: int
    height: int
    width: int
    first: bool
    batch: int = 1

    @property
    def name(self) -> str:
        """The convolution in a line of results."""
        return f"k{self.taps} C={self.channels}, {self.height}x{self.width}, B={self.batch}"


class Block(NamedTuple):
    """A residual block: the taps of its two convolutions, and its clip."""

    taps: tuple[int, int]
    channels: int
    height: int
    width: int


def clips_of(x: Tensor) -> Tensor:
    """Return the view (B, F, S, C) of clips (B, C, F, H, W)."""
    return x.flatten(3).permute(0, 2, 3, 1)


def folded_of(x: Tensor) -> Tensor:
    """Fold clips (B, C, F, H, W) to frames (B * F, C, H, W); a view for one clip."""
    return x.transpose(1, 2).flatten(0, 1)


def random(device: torch.device, dtype: torch.dtype, *size: int, scale: float = 1.0) -> Tensor:
    """Draw normal numbers times `scale`."""
    return (scale * torch.randn(size, device=device)).to(dtype)


# The convolution


def make_conv(conv: Conv, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return x, weight, bias, and the time embedding or the residual."""
    draw = partial(random, device, dtype)

    def clip() -> Tensor:
        """Draw clips (B, F, S, C)."""
        return draw(conv.batch, FRAMES, conv.height * conv.width, conv.channels)

    weight = draw(conv.channels, conv.channels, conv.taps, 1, 1, scale=(conv.channels * conv.taps) ** -0.5)
    added = draw(conv.batch, conv.channels) if conv.first else clip()
    return [t.requires_grad_() for t in (clip(), weight, draw(conv.channels), added)]


def ours_conv(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor, conv: Conv, backend: Backend) -> Tensor:
    """Run `lavie.ops.pseudo3d_conv` on a backend."""
    time, residual = (added, None) if conv.first else (None, added)
    return pseudo3d_conv(x, weight, bias, time=time, residual=residual, backend=backend)


def eager_conv(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor, conv: Conv) -> Tensor:
    """Convolve as the released network does, clips that lie in memory as (B, C, F, S)."""
    x, added = (
        v if v.ndim == 2 else v.permute(RELEASED_CLIPS).unflatten(-1, (conv.height, conv.width)) for v in (x, added)
    )
    y = F.conv3d(x, weight, bias, padding=(conv.taps // 2, 0, 0))
    return clips_of(y + (added[:, :, None, None, None] if conv.first else added))


def conv3d(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor, conv: Conv) -> Tensor:
    """Run cuDNN's 3-D convolution on our memory."""
    x = x.unflatten(2, (conv.height, conv.width)).permute(0, 4, 1, 2, 3)
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    y = F.conv3d(x, weight, bias, padding=(conv.taps // 2, 0, 0)).permute(0, 2, 3, 4, 1).flatten(2, 3)
    return y + (added[:, None, None] if conv.first else added)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor, conv: Conv) -> Tensor:
    """Run cuDNN's 2-D convolution over (F, S) with a kernel (k, 1), on our memory."""
    return conv_over_time(x, weight, bias) + (added[:, None, None] if conv.first else added)


def conv_over_time(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve x (B, F, S, C) over F, with a weight (C_out, C_in, k, 1, 1), by cuDNN's 2-D convolution."""
    weight = weight[..., 0].contiguous(memory_format=torch.channels_last)
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=(weight.shape[2] // 2, 0)).permute(0, 2, 3, 1)


def conv_case(conv: Conv) -> Case:
    """Return the case of a convolution: ours, the released network's way, a compiler, and cuDNN's in two forms."""
    x = torch.empty(conv.batch, FRAMES, conv.height * conv.width, conv.channels, dtype=torch.bfloat16, device="meta")
    weight, bias = x.new_empty(conv.channels, conv.channels, conv.taps), x.new_empty(conv.channels)
    time, residual = (x.new_empty(conv.batch, conv.channels), None) if conv.first else (None, x)
    definition = partial(ours_conv, conv=conv, backend="torch")
    released = (RELEASED_CLIPS, None, None, None if conv.first else RELEASED_CLIPS)
    ways = {
        "triton": Way(partial(ours_conv, conv=conv, backend="triton")),
        "eager": Way(partial(eager_conv, conv=conv), orders=released),
        "compile": Way(partial(conv2d, conv=conv), compiled=True),
        "conv3d channels_last_3d": Way(partial(conv3d, conv=conv)),
        "conv2d 1-D": Way(partial(conv2d, conv=conv)),
    }
    if old_cudnn():
        print(f"cuDNN {torch.backends.cudnn.version()} is older than {CUDNN_FLOOR}: no 3-D convolution of its own")
        del ways["conv3d channels_last_3d"]
    return Case(
        f"conv {conv.name}", partial(make_conv, conv), ways, definition, cost(x, weight, bias, time, residual), 2
    )


def old_cudnn() -> bool:
    """Return whether this machine's cuDNN is too old for a 3-D convolution worth timing."""
    return torch.cuda.is_available() and (torch.backends.cudnn.version() or 0) < CUDNN_FLOOR


# The block


def make_block(block: Block, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return x, then weight and bias of norm1, conv1, norm2 and conv2 each, and the time embedding."""
    draw = partial(random, device, dtype)
    c = block.channels
    x = draw(FRAMES, block.height, block.width, c).permute(0, 3, 1, 2)
    leaves = [x]
    for taps in block.taps:
        weight = draw(c, c, taps, 1, 1, scale=(c * taps) ** -0.5)
        leaves += [1 + draw(c, scale=0.1), draw(c, scale=0.1), weight, draw(c)]
    return [t.requires_grad_() for t in (*leaves, draw(1, c))]


def ours_block(x: Tensor, *tensors: Tensor, backend: Backend) -> Tensor:
    """Run `lavie.ops.pseudo3d_block` on a backend; `tensors` are those of `make_block` behind x."""
    w1, b1, k1, c1, w2, b2, k2, c2, time = tensors
    settings = dict(frames=FRAMES, groups=GROUPS, eps=EPS, time=time, backend=backend)
    return pseudo3d_block(x, (w1, b1), (k1, c1), (w2, b2), (k2, c2), **settings)  # type: ignore[arg-type]


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve folded frames over time by cuDNN's 2-D convolution."""
    clips = x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, FRAMES))
    return conv_over_time(clips, weight, bias).flatten(0, 1).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def separate_block(x: Tensor, *tensors: Tensor) -> Tensor:
    """Run the fused norm and cuDNN, one after the other."""
    w1, b1, k1, c1, w2, b2, k2, c2, time = tensors
    settings = dict(groups=GROUPS, eps=EPS, frames=FRAMES, backend="triton")
    h = convolve(group_norm_silu(x, w1, b1, **settings), k1, c1) + time[:, :, None, None]  # type: ignore[arg-type]
    return x + convolve(group_norm_silu(h, w2, b2, **settings), k2, c2)  # type: ignore[arg-type]


def plain_block(x: Tensor, *tensors: Tensor) -> Tensor:
    """Compute the formula in plain PyTorch, for a compiler."""
    w1, b1, k1, c1, w2, b2, k2, c2, time = tensors

    def normalise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute silu(norm(x)) of the frames (F, C, H, W) of one clip."""
        v = x.float().unflatten(1, (GROUPS, -1))
        centred = v - v.mean((0, 2, 3, 4), keepdim=True)
        y = (centred * (centred.square().mean((0, 2, 3, 4), keepdim=True) + EPS).rsqrt()).flatten(1, 2)
        return F.silu(y * weight.float()[:, None, None] + bias.float()[:, None, None]).to(x.dtype)

    h = convolve(normalise(x, w1, b1), k1, c1) + time[:, :, None, None]
    return x + convolve(normalise(h, w2, b2), k2, c2)


def eager_block(x: Tensor, *tensors: Tensor) -> Tensor:
    """Run the block as the released network does, on (B, C, F, H, W)."""
    w1, b1, k1, c1, w2, b2, k2, c2, time = tensors

    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve clips (B, C, F, H, W) over F."""
        return F.conv3d(x, weight, bias, padding=(weight.shape[2] // 2, 0, 0))

    v = x.unflatten(0, (1, FRAMES)).transpose(1, 2)
    h = convolve(F.silu(F.group_norm(v, GROUPS, w1, b1, EPS)), k1, c1) + time[:, :, None, None, None]
    return folded_of(v + convolve(F.silu(F.group_norm(h, GROUPS, w2, b2, EPS)), k2, c2))


def block_cost(block: Block) -> Cost:
    """Return the floors of a block: the input, what the backward pass keeps and the output once each; both products."""
    c, positions = block.channels, block.height * block.width
    x = torch.empty(1, FRAMES, positions, c, dtype=torch.bfloat16, device="meta")
    flops = parameters = 0
    for taps in block.taps:
        weight = x.new_empty(c, c, taps)
        flops += cost(x, weight).forward_flops
        parameters += weight.nbytes
    return Cost(3 * x.nbytes + parameters, 4 * x.nbytes + 2 * parameters, flops, 2 * flops)


def block_case(block: Block) -> Case:
    """Return the case of a block: ours, the released network's way, a compiler, and our norm with cuDNN."""
    definition = partial(ours_block, backend="torch")
    ways = {
        "triton": Way(partial(ours_block, backend="triton")),
        "eager": Way(eager_block, orders=(RELEASED_FRAMES,)),
        "compile": Way(plain_block, compiled=True),
        "fused norm + cuDNN": Way(separate_block),
    }
    name = f"block k{block.taps[0]} + k{block.taps[1]} C={block.channels}, {block.height}x{block.width}"
    return Case(name, partial(make_block, block), ways, definition, block_cost(block), roundings=8)


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the super-resolution network's convolutions and blocks at 8 frames.

    In a dry run (`tiny`) small ones, for the interpreter.
    """
    if tiny:
        yield conv_case(Conv(3, 32, 2, 3, False))
        yield conv_case(Conv(5, 32, 2, 3, True, batch=2))
        yield block_case(Block((3, 3), 64, 2, 3))
        yield block_case(Block((5, 3), 64, 2, 3))
        return
    for channels, height, width in ((256, 320, 512), (512, 320, 512), (512, 160, 256), (1024, 80, 128)):
        yield conv_case(Conv(5, channels, height, width, True))
        yield conv_case(Conv(3, channels, height, width, False))
    yield conv_case(Conv(3, 1024, 40, 64, False))
    yield conv_case(Conv(3, 512, 160, 256, False, batch=2))
    for channels, height, width in ((256, 320, 512), (512, 160, 256)):
        yield block_case(Block((3, 3), channels, height, width))
        yield block_case(Block((5, 3), channels, height, width))


if __name__ == "__main__":
    main("pseudo3d_conv", cases)
