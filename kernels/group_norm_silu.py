"""GroupNorm, with or without SiLU, on channels-last memory: statistics that fill the chip, and a backward pass.

Memory is a matrix of N * S rows, the pixels of all images, with C channels each. The rows of a clip follow one another,
so a clip is one segment of F * S rows, and each image that comes with the clips a segment of S. Segments are cut into
blocks of at most `rows` rows; a program takes a block and a slab of channels, whatever the groups are. What it finds
per channel goes to a small table (blocks, C), which a second kernel reduces to groups in a fixed order:

    forward    block statistics (mean and sum of squared deviations) -> mean, rstd per set of segments -> y
    backward   block sums of g and g * x_hat -> their means per set and group, dweight, dbias -> dx

with g = dy * silu'(z), computed anew from x both times. The second pass over x goes from its end to its beginning, to
meet first what the first pass left in the cache.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cost import Cost
from .launch import chip_of, launch

TILE = 2048
"""Elements of a tile: 16 for each of 128 threads, in accesses of 128 bits."""
SLAB = 64
"""Channels of a tile at most: a cache line of bf16. It divides every width of LaVie's networks."""
PROGRAMS = 16
"""Programs for each multiprocessor, where a tensor has the tiles for them: two to four waves."""
MOST_ROWS = 1024
"""Rows of a block at most, so that offsets within a block fit 32 bits."""
EXTENTS = ["groups", "clips", "frames", "images", "pixels", "rows", "sets", "blocks"]
"""Arguments that address blocks, not memory. A kernel is not compiled anew where one is 1 or a multiple of 16."""


@triton.jit
def _block(channels, clips, frames, pixels, rows, BLOCK_C: tl.constexpr, REVERSED: tl.constexpr):
    """Find this program's block and channels: the slabs of a block follow one another.

    Returns the block's index, the offset and number of its rows, the first image of its segment, and the channels [C].
    """
    program = tl.program_id(0)
    if REVERSED:
        program = tl.num_programs(0) - 1 - program
    slabs = tl.cdiv(channels, BLOCK_C)
    index = program // slabs
    clip_blocks, image_blocks = tl.cdiv(frames * pixels, rows), tl.cdiv(pixels, rows)
    beyond = index - clips * clip_blocks
    in_clip = beyond < 0
    position = tl.where(in_clip, index, beyond)
    blocks = tl.where(in_clip, clip_blocks, image_blocks)
    images = tl.where(in_clip, frames, 1)  # of a segment
    image = tl.where(in_clip, 0, clips * frames) + position // blocks * images
    start = position % blocks * rows
    offset = (image * pixels + start).to(tl.int64) * channels
    c = program % slabs * BLOCK_C + tl.arange(0, BLOCK_C)
    return index, offset, tl.minimum(rows, images * pixels - start), image, c


@triton.jit
def _set(index, clips, frames, images, pixels, rows):
    """Find set `index` of rows that share statistics: a clip, which its images may join, or an image by itself.

    Returns, for its own segment and then for each image that joins it, the first block and the number of blocks, and
    for both the first image and the number of images.
    """
    clip_blocks, image_blocks = tl.cdiv(frames * pixels, rows), tl.cdiv(pixels, rows)
    beyond = index - clips
    in_clip = beyond < 0
    block = tl.where(in_clip, index * clip_blocks, clips * clip_blocks + beyond * image_blocks)
    blocks = tl.where(in_clip, clip_blocks, image_blocks)
    image = tl.where(in_clip, index * frames, clips * frames + beyond)
    own = tl.where(in_clip, frames, 1)
    block_joined = clips * clip_blocks + index * images * image_blocks
    image_joined = clips * frames + index * images
    return block, blocks, image, own, block_joined, image_blocks, image_joined, tl.where(in_clip, images, 0)


@triton.jit
def _segment(k, block, blocks, block_joined, image_blocks):
    """Return the first block and the number of blocks of segment k of a set."""
    return tl.where(k == 0, block, block_joined + (k - 1) * image_blocks), tl.where(k == 0, blocks, image_blocks)


@triton.jit
def _store_per_image(table_a, a, table_b, b, group, groups, image, own, image_joined, joined, BLOCK_N: tl.constexpr):
    """Store table_a[n, group] = a and table_b[n, group] = b for all images n of a set."""
    i = tl.arange(0, BLOCK_N)
    at = tl.where(i < own, image + i, image_joined + i - own) * groups + group
    tl.store(table_a + at, tl.zeros([BLOCK_N], tl.float32) + a, mask=i < own + joined)
    tl.store(table_b + at, tl.zeros([BLOCK_N], tl.float32) + b, mask=i < own + joined)


@triton.jit
def _places(start, count, channels, c, BLOCK_S: tl.constexpr):
    """Return the offsets in a block of its rows from `start`, at channels c [C], and which are inside: [S, C] each."""
    s = tl.arange(0, BLOCK_S)
    at = start * channels + s[:, None] * channels + c[None, :]
    return at, (start + s < count)[:, None] & (c < channels)[None, :]


@triton.jit
def _tile(x, start, count, channels, c, BLOCK_S: tl.constexpr):
    """Load the rows from `start` of the block at x, at channels c [C]: [S, C].

    Loops load one tile ahead of the one that they use, so that memory is never idle.
    """
    at, inside = _places(start, count, channels, c, BLOCK_S)
    return tl.load(x + at, mask=inside, other=0.0)


@triton.jit
def _of_groups(table, image, c, channels, groups):
    """Load the entries of an image, of a table (N, groups), at the groups of channels c [C], as [1, C]."""
    at = image * groups + c // (channels // groups)
    return tl.load(table + at, mask=c < channels, other=0.0)[None, :]


@triton.jit
def _affine(weight, bias, mean, rstd, image, c, channels, groups):
    """Load for each channel c, [1, C] each: mean, rstd, and scale and bias of the map of x - mean."""
    weight_c = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    bias_c = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    rstd_c = _of_groups(rstd, image, c, channels, groups)
    return _of_groups(mean, image, c, channels, groups), rstd_c, rstd_c * weight_c, bias_c


@triton.jit
def _gradient(dy, z, SILU: tl.constexpr):
    """Return dy * silu'(z), or dy without SiLU."""
    if SILU:
        sigmoid = 1.0 / (1.0 + tl.exp(-z))
        y = z * sigmoid
        dy *= sigmoid + y - y * sigmoid
    return dy


# --- forward


@triton.jit(do_not_specialize=EXTENTS)
def _block_statistics_kernel(
    x, block_mean, block_m2, channels, clips, frames, pixels, rows, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Write each block's mean and its sum of squared deviations from it: x (N, S, C) -> two tables (blocks, C)."""
    index, offset, count, _, c = _block(channels, clips, frames, pixels, rows, BLOCK_C, False)
    x += offset
    # Welford's recurrence in every place of the tile, over the tiles of the block: nothing cancels.
    mean = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    m2 = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    ahead = _tile(x, 0, count, channels, c, BLOCK_S)
    for start in range(0, count, BLOCK_S):
        v = ahead.to(tl.float32)
        ahead = _tile(x, start + BLOCK_S, count, channels, c, BLOCK_S)
        _offsets, inside = _places(start, count, channels, c, BLOCK_S)  # no `_`: the loop would carry that one on
        delta = tl.where(inside, v - mean, 0.0)
        mean += delta * (1.0 / (start // BLOCK_S + 1))
        m2 += delta * (v - mean)
    rows_seen = tl.cdiv(count - tl.arange(0, BLOCK_S), BLOCK_S).to(tl.float32)[:, None]  # by each place
    mean_c = tl.sum(mean * rows_seen, 0) / count
    mean_c += tl.sum((mean - mean_c[None, :]) * rows_seen, 0) / count  # what rounding took from a large mean
    apart = mean - mean_c[None, :]
    out = index.to(tl.int64) * channels + c
    tl.store(block_mean + out, mean_c, mask=c < channels)
    tl.store(block_m2 + out, tl.sum(m2 + rows_seen * apart * apart, 0), mask=c < channels)


@triton.jit(do_not_specialize=EXTENTS)
def _statistics_kernel(
    block_mean, block_m2, mean, rstd, eps, channels, groups, clips, frames, images, pixels, rows,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Reduce block_mean and block_m2 (blocks, C) to mean and rstd (N, groups); `images` join each clip."""
    group = tl.program_id(0) % groups
    block, blocks, image, own, block_joined, image_blocks, image_joined, joined = _set(
        tl.program_id(0) // groups, clips, frames, images, pixels, rows
    )
    j = tl.arange(0, BLOCK_G)[None, :]
    of_group = j < channels // groups
    p = tl.arange(0, BLOCK_P)[:, None]
    at = p * channels + group * (channels // groups) + j
    # The rule of Chan et al. for means of unequal weight in every place of the tile.
    seen = tl.zeros([BLOCK_P, 1], tl.float32)
    mean_p = tl.zeros([BLOCK_P, BLOCK_G], tl.float32)
    m2_p = tl.zeros([BLOCK_P, BLOCK_G], tl.float32)
    for k in range(0, 1 + joined):
        first, count = _segment(k, block, blocks, block_joined, image_blocks)
        length = tl.where(k == 0, own, 1) * pixels
        for start in range(0, count, BLOCK_P):
            base = (first + start).to(tl.int64) * channels
            i = start + p
            inside = (i < count) & of_group
            new = tl.maximum(tl.minimum(rows, length - i * rows), 0).to(tl.float32)
            share = new / tl.maximum(seen + new, 1.0)
            delta = tl.load(block_mean + base + at, mask=inside, other=0.0) - mean_p
            mean_p += delta * share
            m2_p += tl.load(block_m2 + base + at, mask=inside, other=0.0) + delta * delta * (seen * share)
            seen += new
    size = (own + joined) * pixels.to(tl.float32) * (channels // groups)
    weight = tl.where(of_group, seen, 0.0)
    mean_g = tl.sum(tl.sum(mean_p * weight, 1), 0) / size
    mean_g += tl.sum(tl.sum((mean_p - mean_g) * weight, 1), 0) / size  # what rounding took, as for a block
    apart = mean_p - mean_g
    variance = tl.sum(tl.sum(m2_p + weight * apart * apart, 1), 0) / size
    rstd_g = tl.rsqrt(variance + eps)
    _store_per_image(mean, mean_g, rstd, rstd_g, group, groups, image, own, image_joined, joined, BLOCK_N)


@triton.jit(do_not_specialize=EXTENTS)
def _apply_kernel(
    x, y, weight, bias, mean, rstd, channels, groups, clips, frames, pixels, rows,
    SILU: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write y like x (N, S, C), from weight and bias (C,), mean and rstd (N, groups)."""
    _, offset, count, image, c = _block(channels, clips, frames, pixels, rows, BLOCK_C, True)
    x, y = x + offset, y + offset
    mean_c, _, scale, bias_c = _affine(weight, bias, mean, rstd, image, c, channels, groups)
    ahead = _tile(x, 0, count, channels, c, BLOCK_S)
    for start in range(0, count, BLOCK_S):
        v = ahead.to(tl.float32)
        ahead = _tile(x, start + BLOCK_S, count, channels, c, BLOCK_S)
        at, inside = _places(start, count, channels, c, BLOCK_S)
        z = (v - mean_c) * scale + bias_c
        if SILU:
            z = z / (1.0 + tl.exp(-z))
        tl.store(y + at, z.to(y.dtype.element_ty), mask=inside)


# --- backward


@triton.jit(do_not_specialize=EXTENTS)
def _block_sums_kernel(
    x, dy, weight, bias, mean, rstd, block_g, block_gx, channels, groups, clips, frames, pixels, rows,
    SILU: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write each block's sums of g and of g * x_hat, (blocks, C).

    x, dy (N, S, C), weight, bias (C,), mean, rstd (N, groups).
    """
    index, offset, count, image, c = _block(channels, clips, frames, pixels, rows, BLOCK_C, False)
    x, dy = x + offset, dy + offset
    mean_c, rstd_c, scale, bias_c = _affine(weight, bias, mean, rstd, image, c, channels, groups)
    sum_g = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    sum_gx = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    x_ahead = _tile(x, 0, count, channels, c, BLOCK_S)
    dy_ahead = _tile(dy, 0, count, channels, c, BLOCK_S)
    for start in range(0, count, BLOCK_S):
        v, g = x_ahead.to(tl.float32), dy_ahead.to(tl.float32)
        x_ahead = _tile(x, start + BLOCK_S, count, channels, c, BLOCK_S)
        dy_ahead = _tile(dy, start + BLOCK_S, count, channels, c, BLOCK_S)
        g = _gradient(g, (v - mean_c) * scale + bias_c, SILU)
        sum_g += g
        sum_gx += g * (v - mean_c)
    out = index.to(tl.int64) * channels + c
    tl.store(block_g + out, tl.sum(sum_g, 0), mask=c < channels)
    tl.store(block_gx + out, tl.sum(sum_gx * rstd_c, 0), mask=c < channels)


@triton.jit(do_not_specialize=EXTENTS)
def _sums_kernel(
    block_g, block_gx, weight, mean_g, mean_gx, dweight, dbias,
    channels, groups, sets, blocks, clips, frames, images, pixels, rows,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Reduce block_g and block_gx (blocks, C) to the means of g * weight and g * x_hat * weight (N, groups), and to
    dweight and dbias (C,).

    The first sets * groups programs take a group of a set each, the others BLOCK_G channels over all blocks.
    """
    program = tl.program_id(0)
    of_set = program < sets * groups
    group = program % groups
    block, own_blocks, image, own, block_joined, image_blocks, image_joined, joined = _set(
        program // groups, clips, frames, images, pixels, rows
    )
    block, own_blocks = tl.where(of_set, block, 0), tl.where(of_set, own_blocks, blocks)
    j = tl.arange(0, BLOCK_G)
    c = tl.where(of_set, group * (channels // groups), (program - sets * groups) * BLOCK_G) + j
    known = tl.where(of_set, j < channels // groups, c < channels)
    p = tl.arange(0, BLOCK_P)[:, None]
    at = p * channels + c[None, :]
    tile_g = tl.zeros([BLOCK_P, BLOCK_G], tl.float32)
    tile_gx = tl.zeros([BLOCK_P, BLOCK_G], tl.float32)
    for k in range(0, 1 + joined):
        first, count = _segment(k, block, own_blocks, block_joined, image_blocks)
        for start in range(0, count, BLOCK_P):
            base = (first + start).to(tl.int64) * channels
            inside = (start + p < count) & known[None, :]
            tile_g += tl.load(block_g + base + at, mask=inside, other=0.0)
            tile_gx += tl.load(block_gx + base + at, mask=inside, other=0.0)
    sum_g, sum_gx = tl.sum(tile_g, 0), tl.sum(tile_gx, 0)
    if of_set:
        weight_c = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
        size = (own + joined) * pixels.to(tl.float32) * (channels // groups)
        g, gx = tl.sum(sum_g * weight_c, 0) / size, tl.sum(sum_gx * weight_c, 0) / size
        _store_per_image(mean_g, g, mean_gx, gx, group, groups, image, own, image_joined, joined, BLOCK_N)
    else:
        tl.store(dbias + c, sum_g.to(dbias.dtype.element_ty), mask=known)
        tl.store(dweight + c, sum_gx.to(dweight.dtype.element_ty), mask=known)


@triton.jit(do_not_specialize=EXTENTS)
def _input_gradient_kernel(
    x, dy, dx, weight, bias, mean, rstd, mean_g, mean_gx, channels, groups, clips, frames, pixels, rows,
    SILU: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write dx like x, from x, dy (N, S, C), weight, bias (C,) and the four statistics (N, groups)."""
    _, offset, count, image, c = _block(channels, clips, frames, pixels, rows, BLOCK_C, True)
    x, dy, dx = x + offset, dy + offset, dx + offset
    mean_c, rstd_c, scale, bias_c = _affine(weight, bias, mean, rstd, image, c, channels, groups)
    # dx = (g * weight - mean_g - x_hat * mean_gx) * rstd
    shift = _of_groups(mean_g, image, c, channels, groups) * rstd_c
    slope = _of_groups(mean_gx, image, c, channels, groups) * rstd_c * rstd_c
    x_ahead = _tile(x, 0, count, channels, c, BLOCK_S)
    dy_ahead = _tile(dy, 0, count, channels, c, BLOCK_S)
    for start in range(0, count, BLOCK_S):
        v, g = x_ahead.to(tl.float32), dy_ahead.to(tl.float32)
        x_ahead = _tile(x, start + BLOCK_S, count, channels, c, BLOCK_S)
        dy_ahead = _tile(dy, start + BLOCK_S, count, channels, c, BLOCK_S)
        g = _gradient(g, (v - mean_c) * scale + bias_c, SILU)
        at, inside = _places(start, count, channels, c, BLOCK_S)
        tl.store(dx + at, (g * scale - ((v - mean_c) * slope + shift)).to(dx.dtype.element_ty), mask=inside)


def unsupported(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> str | None:
    """Why the kernels cannot run on these, or None."""
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"{name} is {tensor.dtype}, wanted float32, bfloat16 or float16"
        if name != "x" and (tensor.shape != x.shape[1:2] or not tensor.is_contiguous()):
            return f"{name} of shape {tuple(tensor.shape)} is not {x.shape[1]} contiguous numbers, one for each channel"
    if x.numel() == 0:
        return f"x of shape {tuple(x.shape)} is empty, wanted at least one pixel"
    if x.shape[1] > groups * TILE:
        return f"{groups} groups of {x.shape[1]} channels are too wide, wanted at most {TILE} channels in each"
    return None


class Plan(NamedTuple):
    """How a call is cut: the extents that kernels are given, what their grids count, and their tile."""

    clips: int
    frames: int
    images: int  # that join the statistics of each clip
    pixels: int
    rows: int
    blocks: int
    sets: int
    block_s: int
    block_c: int


def plan(x: Tensor, frames: int, images: int, pool_images: bool) -> Plan:
    """The same for the same shapes on the same chip, whatever the dtype."""
    n, channels, pixels = *x.shape[:2], x.shape[2:].numel()
    if frames == 0:  # images alone are clips of one frame, or of all that are pooled
        frames, images = images if pool_images else 1, 0
    clips = n // (frames + images)
    block_c = min(SLAB, triton.next_power_of_2(channels))
    block_s = TILE // block_c
    enough = triton.cdiv(n * pixels * triton.cdiv(channels, block_c), PROGRAMS * chip_of(x).multiprocessors)
    rows = min(MOST_ROWS, triton.cdiv(enough, block_s) * block_s)
    blocks = clips * (triton.cdiv(frames * pixels, rows) + images * triton.cdiv(pixels, rows))
    joined = images if pool_images else 0
    return Plan(clips, frames, joined, pixels, rows, blocks, clips * (1 + images - joined), block_s, block_c)


def _launch_tiles(kernel: Any, p: Plan, tensors: tuple[Tensor, ...], *groups: int, **settings: int) -> None:
    """A program for each block and slab of `tensors[0]`."""
    channels = tensors[0].shape[1]
    grid, extents = (p.blocks * triton.cdiv(channels, p.block_c),), (p.clips, p.frames, p.pixels, p.rows)
    launch(kernel, grid, *tensors, channels, *groups, *extents, **settings, BLOCK_S=p.block_s, BLOCK_C=p.block_c)


def _group_tile(p: Plan, group_channels: int) -> dict[str, int]:
    """The tile of a kernel that reduces tables (blocks, C) to groups and stores a number per image."""
    block_g, block_n = triton.next_power_of_2(group_channels), triton.next_power_of_2(p.frames + p.images)
    return {"BLOCK_P": TILE // block_g, "BLOCK_G": block_g, "BLOCK_N": block_n}


def _channels_last(x: Tensor) -> Tensor:
    """x with the memory (N, H, W, C). A gradient may come in another layout; strides of 1 x 1 pixels say nothing."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor,
    groups: int, eps: float, frames: int, images: int, pool_images: bool, silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y like x (N, C, H, W), channels last, and mean and rstd (N, groups) in float32."""
    x, n, channels = _channels_last(x), *x.shape[:2]
    p = plan(x, frames, images, pool_images)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    block_mean, block_m2 = x.new_empty(2, p.blocks, channels, dtype=torch.float32)
    mean, rstd = (x.new_empty(n, groups, dtype=torch.float32) for _ in range(2))
    _launch_tiles(_block_statistics_kernel, p, (x, block_mean, block_m2))
    tile = _group_tile(p, channels // groups)
    tables = (block_mean, block_m2, mean, rstd)
    launch(_statistics_kernel, (p.sets * groups,), *tables, eps, channels, groups, *p[:5], **tile, num_warps=8)
    _launch_tiles(_apply_kernel, p, (x, y, weight, bias, mean, rstd), groups, SILU=silu)
    return y, mean, rstd


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor,
    groups: int, frames: int, images: int, pool_images: bool, silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dx like x, channels last, dweight and dbias, from dy (N, C, H, W) and what `forward` returned."""
    x, dy, channels = _channels_last(x), _channels_last(dy), x.shape[1]
    p = plan(x, frames, images, pool_images)
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    block_g, block_gx = x.new_empty(2, p.blocks, channels, dtype=torch.float32)
    mean_g, mean_gx = torch.empty_like(mean), torch.empty_like(mean)
    _launch_tiles(_block_sums_kernel, p, (x, dy, weight, bias, mean, rstd, block_g, block_gx), groups, SILU=silu)
    tables = (block_g, block_gx, weight, mean_g, mean_gx, dweight, dbias)
    tile = _group_tile(p, channels // groups)
    grid = (p.sets * groups + triton.cdiv(channels, tile["BLOCK_G"]),)
    launch(_sums_kernel, grid, *tables, channels, groups, p.sets, p.blocks, *p[:5], **tile)
    given = (weight, bias, mean, rstd, mean_g, mean_gx)
    _launch_tiles(_input_gradient_kernel, p, (x, dy, dx, *given), groups, SILU=silu, num_warps=8)  # 4 spill in float16
    return dx, dweight, dbias


def cost(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Cost:
    """Floors for groups that are too large to stay on the chip between their statistics and their use.

    Forward reads x twice and writes y, backward reads x and dy twice and writes dx. FLOPs are those of matrix products.
    """
    parameters, statistics = weight.nbytes + bias.nbytes, 2 * x.shape[0] * groups * 4
    return Cost(3 * x.nbytes + parameters + statistics, 5 * x.nbytes + 2 * parameters + statistics, 0, 0)
