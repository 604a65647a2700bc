"""Triton kernels of the temporal convolution: a matrix product whose left operand is read at shifted frames.

Nothing is unfolded or padded: a program owns a tile of positions of one frame, and its reduction runs over the taps
whose frame exists, times the input channels. The input's gradient is the same kernel with other weights.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cost import Cost
from .launch import Chip, chip_of, launch

EXTENTS = ("B", "F", "S", "splits")
"""Arguments that a kernel is not compiled anew for, whatever their values."""


@triton.jit
def _product(a, b, acc, PRECISION: tl.constexpr):
    """Return acc + a b."""
    if PRECISION == "interpreted":  # the interpreter would multiply the bits of bfloat16
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit(do_not_specialize=EXTENTS)
def _conv_kernel(
    x,  # (B, F, S, C_IN)
    w,  # (TAPS * C_IN, C_OUT), each size rounded up to its block with zeros
    bias,  # (C_OUT,) or None
    time,  # (B, C_OUT) or None
    residual,  # (B, F, S, C_OUT) or None
    y,  # (B, F, S, C_OUT), contiguous
    B,
    F,
    S,
    x_b,  # strides of x
    x_f,
    x_s,
    r_b,  # strides of residual
    r_f,
    r_s,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write y: a program takes BLOCK_M positions of one frame and BLOCK_N output channels.

    Three phases: find the program's tile; add up the products over taps and blocks of input channels; finish the tile.
    """
    STEPS: tl.constexpr = (C_IN + BLOCK_K - 1) // BLOCK_K
    COLUMNS: tl.constexpr = (C_OUT + BLOCK_N - 1) // BLOCK_N
    # Neighbours in time, and the column tiles of one frame, run together: they read the same tiles of x from L2.
    pid = tl.program_id(0)
    n = pid % COLUMNS  # the tile of output channels
    f = pid // COLUMNS % F
    block = pid // (COLUMNS * F)
    blocks = tl.cdiv(S, BLOCK_M)
    b = (block // blocks).to(tl.int64)
    block = block % blocks

    # Rows past the end repeat the last one, and are not stored.
    s = tl.minimum(block * BLOCK_M + tl.arange(0, BLOCK_M), S - 1).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    frame = tl.full((), x_f, tl.int64)
    x_tile = x + b * x_b + (f - TAPS // 2) * frame + s[:, None] * x_s + k[None, :]
    w_tile = w + k[:, None] * (COLUMNS * BLOCK_N) + (n * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]

    # Only taps whose frame exists: the rows of w for the others are skipped, and nothing is padded.
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first = tl.maximum(TAPS // 2 - f, 0)
    last = tl.minimum(F + TAPS // 2 - f, TAPS)
    for i in range(first * STEPS, last * STEPS):
        c = i % STEPS * BLOCK_K
        source = x_tile + (i // STEPS * frame + c)
        x_block = tl.load(source) if C_IN % BLOCK_K == 0 else tl.load(source, mask=(c + k)[None, :] < C_IN, other=0.0)
        w_block = tl.load(w_tile + i * (BLOCK_K * COLUMNS * BLOCK_N))
        acc = _product(x_block, w_block, acc, PRECISION)

    # What is added to the product, while it is still in registers and float32.
    image = b * F + f
    if residual is not None:
        residual += b * r_b + f.to(tl.int64) * r_f
    for part in tl.static_range(PARTS):  # in parts, their registers fit beside the accumulator
        columns = acc if PARTS == 1 else _quarter(acc, part)
        column = n * BLOCK_N + part * (BLOCK_N // PARTS)
        _finish(columns, bias, time, residual, y, b, image, block, column, S, r_s, C_OUT)


@triton.jit
def _quarter(tile, which: tl.constexpr):
    """Return a quarter of a tile's columns, counted from the left."""
    quarters = tile.reshape(tile.shape[0], 2, 2, tile.shape[1] // 4).permute(0, 3, 1, 2)
    even, odd = quarters.split()
    near, far = (even if which % 2 == 0 else odd).split()
    return near if which < 2 else far


@triton.jit
def _finish(acc, bias, time, residual, y, b, image, block, column, S, r_s, C_OUT: tl.constexpr):
    """Add bias, time embedding and residual to a tile, as far as there are any, and store it."""
    ROWS: tl.constexpr = acc.shape[0]
    co = column + tl.arange(0, acc.shape[1])
    s = block * ROWS + tl.arange(0, ROWS)
    mask = (s < S)[:, None] & (co < C_OUT)[None, :]
    if bias is not None:
        acc += tl.load(bias + co, mask=co < C_OUT, other=0.0).to(tl.float32)[None, :]
    if time is not None:
        acc += tl.load(time + b * C_OUT + co, mask=co < C_OUT, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        acc += tl.load(residual + s.to(tl.int64)[:, None] * r_s + co[None, :], mask=mask, other=0.0).to(tl.float32)
    stored = acc.to(y.dtype.element_ty)
    tl.store(y + (image * S + s)[:, None] * C_OUT + co[None, :], stored, mask=mask)


@triton.jit(do_not_specialize=EXTENTS)
def _weight_gradient_kernel(
    x,  # (B, F, S, C_IN)
    dy,  # (B, F, S, C_OUT)
    partial,  # (splits, TAPS, C_IN, C_OUT) float32, contiguous, written
    B,
    F,
    S,
    splits,
    x_b,  # strides of x
    x_f,
    x_s,
    dy_b,  # strides of dy
    dy_f,
    dy_s,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_S: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write partial sums: a program takes one tap, a tile of channels and one of `splits` ranges of rows.

    Two phases: find tap, tile and range; add up x^T dy over the range's blocks of BLOCK_S positions.
    """
    INPUTS: tl.constexpr = (C_IN + BLOCK_I - 1) // BLOCK_I
    OUTPUTS: tl.constexpr = (C_OUT + BLOCK_O - 1) // BLOCK_O
    # All taps and tiles of one range of rows run together, and share the rows in L2.
    pid = tl.program_id(0)
    co = pid % OUTPUTS * BLOCK_O + tl.arange(0, BLOCK_O)
    ci = pid // OUTPUTS % INPUTS * BLOCK_I + tl.arange(0, BLOCK_I)
    tap = pid // (OUTPUTS * INPUTS) % TAPS
    split = pid // (OUTPUTS * INPUTS * TAPS)

    # The rows of this tap: positions of the frames that it can shift, in blocks, and this program's share of them.
    shift = tap - TAPS // 2
    frames = F - tl.abs(shift)  # for how many the shifted frame exists; may be negative
    blocks = tl.cdiv(S, BLOCK_S)
    steps = tl.maximum(B * blocks * frames, 0)
    share = tl.cdiv(steps, splits)
    rows = tl.arange(0, BLOCK_S)
    x_tile = x + shift.to(tl.int64) * x_f + rows.to(tl.int64)[:, None] * x_s + ci[None, :]
    dy_tile = dy + rows.to(tl.int64)[:, None] * dy_s + co[None, :]

    acc = tl.zeros((BLOCK_I, BLOCK_O), tl.float32)
    for step in range(split * share, tl.minimum(split * share + share, steps)):
        # Frames vary fastest: taps that read the same frame do so at about the same time.
        f = (step % frames - tl.minimum(shift, 0)).to(tl.int64)
        b = (step // frames // blocks).to(tl.int64)
        s = (step // frames % blocks).to(tl.int64) * BLOCK_S
        x_source = x_tile + (b * x_b + f * x_f + s * x_s)
        dy_source = dy_tile + (b * dy_b + f * dy_f + s * dy_s)
        if EVEN:
            x_block = tl.load(x_source)
            dy_block = tl.load(dy_source)
        else:
            inside = (s + rows < S)[:, None]
            x_block = tl.load(x_source, mask=inside & (ci < C_IN)[None, :], other=0.0)
            dy_block = tl.load(dy_source, mask=inside & (co < C_OUT)[None, :], other=0.0)
        acc = _product(tl.trans(x_block), dy_block, acc, PRECISION)

    entry = partial + (split * TAPS + tap).to(tl.int64) * (C_IN * C_OUT)
    tl.store(entry + ci[:, None] * C_OUT + co[None, :], acc, mask=(ci < C_IN)[:, None] & (co < C_OUT)[None, :])


class Tile(NamedTuple):
    """A matrix product's block: rows, columns, depth; the parts of its epilogue; warps and pipeline stages."""

    m: int
    n: int
    k: int
    parts: int
    warps: int
    stages: int

    def shared(self, itemsize: int, chip: Chip) -> int:
        """Return the bytes of shared memory that the tiles of both operands take at most: a pair for each stage.

        Where matrix units read registers, the pair in use has been copied to those.
        """
        held = self.stages if chip.feeds_from_shared else max(self.stages - 1, 1)
        return held * (self.m + self.n) * self.k * itemsize


DEEP = 1536
"""From this depth of the product on, one large tile per multiprocessor; below, two that hide each other's epilogues."""


def conv_tile(x: Tensor, outputs: int, taps: int) -> Tile:
    """Return the forward kernel's tile: the large one where the chip has the shared memory for it."""
    positions, depth, chip = x.shape[2], taps * x.shape[3], chip_of(x)
    if x.dtype == torch.float32:
        return Tile(64, 64, 32, 1, 4, 3) if positions <= 64 else Tile(128, 64, 32, 1, 8, 3)
    if positions <= 64:
        return Tile(64, 64, 64, 1, 4, 3)
    if outputs <= 64:
        return Tile(128, 64, 64, 1, 8, 4)
    large = Tile(128, 256, 64, 4, 8, 4)
    if outputs % 256 == 0 and depth >= DEEP and large.shared(x.element_size(), chip) <= chip.shared:
        return large
    return Tile(128, 128, 64, 4, 4, 3) if chip.feeds_from_shared else Tile(128, 128, 64, 1, 8, 4)


def weight_gradient_tile(x: Tensor, outputs: int) -> Tile:
    """Return the weight gradient's tile: `m` input channels, `n` output channels, `k` positions."""
    if x.dtype == torch.float32:
        return Tile(64, 64, 32, 1, 4, 1)
    if min(x.shape[3], outputs) <= 64:
        return Tile(64, 64, 64, 1, 4, 3)
    if outputs % 256 == 0 and chip_of(x).feeds_from_shared:
        return Tile(128, 256, 64, 1, 8, 4)
    return Tile(128, 128, 64, 1, 8, 3)


def choose_splits(tiles: int, steps: int, multiprocessors: int) -> int:
    """Return into how many ranges the rows of the weight gradient are cut, so that it is done soonest.

    Programs run in waves of one for each multiprocessor; a range is as long as the rows of one program.
    """
    overhead = 16  # of a program, in steps: filling its pipeline, writing its partial sum and reading that back

    def duration(splits: int) -> int:
        """Return how long that many ranges take, in steps: waves, times the steps of a program."""
        return triton.cdiv(tiles * splits, multiprocessors) * (triton.cdiv(steps, splits) + overhead)

    return min(range(1, min(steps, 64) + 1), key=duration, default=1)


def unsupported(x: Tensor, *others: Tensor | None) -> str | None:
    """Return why the kernels cannot run on these tensors, or None."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"x is {x.dtype}, wanted float32, bfloat16 or float16"
    devices = {t.device for t in others if t is not None}
    if devices - {x.device}:
        return f"x is on {x.device} and other tensors are on {', '.join(map(str, devices))}, wanted one device"
    return None


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, time: Tensor | None, residual: Tensor | None) -> Tensor:
    """Return the convolution of x (B, F, S, C_in) with weight (C_out, C_in, k), contiguous (B, F, S, C_out).

    bias (C_out,), time (B, C_out) and residual (B, F, S, C_out) are added where they are given.
    """
    batch, frames, positions, inputs = x.shape
    outputs, _, taps = weight.shape

    # The kernel takes any strides but those of channels.
    x = _unit_channels(x)
    residual = None if residual is None else _unit_channels(residual)
    y = x.new_empty(batch, frames, positions, outputs)
    if y.numel() == 0:
        return y

    # One program for each tile of positions and of output channels, of each frame.
    tile = conv_tile(x, outputs, taps)
    launch(
        _conv_kernel,
        (batch * frames * triton.cdiv(positions, tile.m) * triton.cdiv(outputs, tile.n),),
        x,
        _pack(weight.to(x.dtype), tile),
        None if bias is None else bias.contiguous(),
        None if time is None else time.contiguous(),
        residual,
        y,
        batch,
        frames,
        positions,
        *x.stride()[:3],
        *(y if residual is None else residual).stride()[:3],
        C_IN=inputs,
        C_OUT=outputs,
        TAPS=taps,
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        BLOCK_K=tile.k,
        PARTS=tile.parts,
        PRECISION=_precision(x),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return y


def weight_gradient(dy: Tensor, x: Tensor, taps: int) -> Tensor:
    """Return the weight's gradient (C_out, C_in, taps) float32, from dy (B, F, S, C_out) and x (B, F, S, C_in)."""
    batch, frames, positions, inputs = x.shape
    outputs = dy.shape[3]
    x, dy = _unit_channels(x), _unit_channels(dy)

    # The weight alone has too few tiles for the chip, so each range of rows is summed by itself, and then their sums.
    tile = weight_gradient_tile(x, outputs)
    tiles = taps * triton.cdiv(inputs, tile.m) * triton.cdiv(outputs, tile.n)
    steps = batch * frames * triton.cdiv(positions, tile.k)
    splits = choose_splits(tiles, steps, chip_of(x).multiprocessors)
    partial = x.new_empty(splits, taps, inputs, outputs, dtype=torch.float32)

    launch(
        _weight_gradient_kernel,
        (splits * tiles,),
        x,
        dy,
        partial,
        batch,
        frames,
        positions,
        splits,
        *x.stride()[:3],
        *dy.stride()[:3],
        C_IN=inputs,
        C_OUT=outputs,
        TAPS=taps,
        BLOCK_I=tile.m,
        BLOCK_O=tile.n,
        BLOCK_S=tile.k,
        EVEN=positions % tile.k == 0 and inputs % tile.m == 0 and outputs % tile.n == 0,
        PRECISION=_precision(x),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return partial.sum(0).permute(2, 1, 0)


def _precision(x: Tensor) -> str:
    """Return how `_product` multiplies; float32 as three products of TF32 numbers on tensor cores."""
    return "interpreted" if x.is_cpu else "tf32x3"


def _unit_channels(x: Tensor) -> Tensor:
    """Return x if its channels are neighbours in memory, else a copy, as of an expanded gradient."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _pack(weight: Tensor, tile: Tile) -> Tensor:
    """Permute a weight (C_out, C_in, k) to (k, C_in, C_out), its channels rounded up to whole blocks with zeros."""
    outputs, inputs, _ = weight.shape
    padding = (0, -outputs % tile.n, 0, -inputs % tile.k)
    packed = weight.permute(2, 1, 0)
    return torch.nn.functional.pad(packed, padding) if any(padding) else packed.contiguous()


def cost(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, time: Tensor | None = None, residual: Tensor | None = None
) -> Cost:
    """Return the floors of the convolution and of all its gradients. Products with absent frames are not counted."""
    batch, frames, positions, inputs = x.shape
    outputs, _, taps = weight.shape[:3]
    pairs = sum(max(frames - abs(tap - taps // 2), 0) for tap in range(taps))  # of an output and an input frame
    flops = 2 * batch * pairs * positions * inputs * outputs
    y = batch * frames * positions * outputs * x.element_size()
    parameters = sum(t.nbytes for t in (weight, bias, time) if t is not None)
    read = x.nbytes + weight.nbytes
    return Cost(
        forward_bytes=x.nbytes + parameters + (0 if residual is None else y) + y,
        backward_bytes=y + read + x.nbytes + parameters,  # dy, x and weight; their gradients. dresidual is dy itself
        forward_flops=flops,
        backward_flops=2 * flops,
    )
