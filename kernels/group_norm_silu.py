"""GroupNorm, with or without SiLU, on channels-last memory: statistics that fill the chip, and a backward pass.

Memory is a matrix of N * S rows, the pixels of all images, with C channels each. The rows of a clip follow one another,
so a clip is one segment of F * S rows, and each image that comes with the clips a segment of S. Segments are cut into
blocks of at most `rows` rows; a program takes a block and a slab of channels, whatever the groups are. What it finds
per channel goes to a small table (blocks, C), which a second kernel reduces to groups in a fixed order:

    forward    block statistics (mean and sum of squared deviations) -> mean, rstd per set of segments -> y
    backward   block sums of g and g * x_hat -> their means per set and group, dweight, dbias -> dx

with g = dy * silu'(z), computed anew from x both times. The second pass over x goes from its end to its beginning, to
meet first what the first pass left in the cache.

In the kernels v is a tile of x in float32, z the value before SiLU and m2 a sum of squared deviations; a name in _c
holds a number per channel, one in _g a number per group.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cost import Cost
from .group_norm_tiles import (
    find_block,
    find_set,
    gradient_of,
    load_affine,
    load_of_groups,
    load_tile,
    places,
    segment_of,
    silu_of,
    store_per_image,
)
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


# --- forward


@triton.jit(do_not_specialize=EXTENTS)
def _block_statistics_kernel(
    x,  # (N, S, C)
    block_mean, block_m2,  # (blocks, C) float32, written
    channels, clips, frames, pixels, rows,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the mean of each channel in a block, and its sum of squared deviations from it.

    A program takes a block and a slab of BLOCK_C channels. Two phases: walk the block in tiles [BLOCK_S, BLOCK_C], with
    running statistics in each of the tile's places; merge the places of a channel.
    """
    index, offset, count, _, c = find_block(channels, clips, frames, pixels, rows, BLOCK_C, False)
    x += offset

    # Welford's recurrence in every place of the tile, over the tiles of the block: nothing cancels.
    mean = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    m2 = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    ahead = load_tile(x, 0, count, channels, c, BLOCK_S)
    for start in range(0, count, BLOCK_S):
        v = ahead.to(tl.float32)
        ahead = load_tile(x, start + BLOCK_S, count, channels, c, BLOCK_S)
        _offsets, inside = places(start, count, channels, c, BLOCK_S)  # no `_`: the loop would carry that one on
        delta = tl.where(inside, v - mean, 0.0)
        mean += delta * (1.0 / (start // BLOCK_S + 1))
        m2 += delta * (v - mean)

    # The places of a channel are merged by the rule of Chan et al., each with the weight of the rows that it has seen.
    rows_seen = tl.cdiv(count - tl.arange(0, BLOCK_S), BLOCK_S).to(tl.float32)[:, None]  # by each place
    mean_c = tl.sum(mean * rows_seen, 0) / count
    mean_c += tl.sum((mean - mean_c[None, :]) * rows_seen, 0) / count  # what rounding took from a large mean
    deviation = mean - mean_c[None, :]
    out = index.to(tl.int64) * channels + c
    tl.store(block_mean + out, mean_c, mask=c < channels)
    tl.store(block_m2 + out, tl.sum(m2 + rows_seen * deviation * deviation, 0), mask=c < channels)


@triton.jit(do_not_specialize=EXTENTS)
def _statistics_kernel(
    block_mean, block_m2,  # (blocks, C) float32
    mean, rstd,  # (N, groups) float32, written
    eps,
    channels, groups, clips, frames, images, pixels, rows,  # `images` join each clip
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Reduce the statistics of blocks and channels to the mean and rstd of sets and groups.

    A program takes a group of a set. Three phases: walk the group's columns of the set's blocks in tiles
    [BLOCK_P, BLOCK_G], with running statistics in each of the tile's places; merge the places; store the results for
    every image of the set.
    """
    group = tl.program_id(0) % groups
    block, blocks, image, segment_images, block_joined, image_blocks, image_joined, joined = find_set(
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
        first, count = segment_of(k, block, blocks, block_joined, image_blocks)
        length = tl.where(k == 0, segment_images, 1) * pixels
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

    # The places are merged by the same rule; those beyond the group weigh nothing.
    size = (segment_images + joined) * pixels.to(tl.float32) * (channels // groups)
    weight = tl.where(of_group, seen, 0.0)
    mean_g = tl.sum(tl.sum(mean_p * weight, 1), 0) / size
    mean_g += tl.sum(tl.sum((mean_p - mean_g) * weight, 1), 0) / size  # what rounding took, as for a block
    deviation = mean_p - mean_g
    variance = tl.sum(tl.sum(m2_p + weight * deviation * deviation, 1), 0) / size
    rstd_g = tl.rsqrt(variance + eps)
    store_per_image(mean, mean_g, rstd, rstd_g, group, groups, image, segment_images, image_joined, joined, BLOCK_N)


@triton.jit(do_not_specialize=EXTENTS)
def _apply_kernel(
    x,  # (N, S, C)
    y,  # like x, written
    weight, bias,  # (C,)
    mean, rstd,  # (N, groups) float32
    channels, groups, clips, frames, pixels, rows,
    SILU: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the norm of x, or SiLU of it.

    A program takes a block and a slab of channels. Two phases: load the affine map of each channel; walk the block in
    tiles and apply it. The last blocks come first, for they are the ones that the cache still has.
    """
    _, offset, count, image, c = find_block(channels, clips, frames, pixels, rows, BLOCK_C, True)
    x, y = x + offset, y + offset
    mean_c, _, scale, bias_c = load_affine(weight, bias, mean, rstd, image, c, channels, groups)

    ahead = load_tile(x, 0, count, channels, c, BLOCK_S)
    for start in range(0, count, BLOCK_S):
        v = ahead.to(tl.float32)
        ahead = load_tile(x, start + BLOCK_S, count, channels, c, BLOCK_S)
        at, inside = places(start, count, channels, c, BLOCK_S)
        z = silu_of((v - mean_c) * scale + bias_c, SILU)
        tl.store(y + at, z.to(y.dtype.element_ty), mask=inside)


# --- backward


@triton.jit(do_not_specialize=EXTENTS)
def _block_sums_kernel(
    x, dy,  # (N, S, C)
    weight, bias,  # (C,)
    mean, rstd,  # (N, groups) float32
    block_g, block_gx,  # (blocks, C) float32, written
    channels, groups, clips, frames, pixels, rows,
    SILU: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the sums of g and of g * x_hat over a block, for each channel.

    A program takes a block and a slab of channels. Two phases: walk the block in tiles, adding up in each of the tile's
    places; add up the places of a channel.
    """
    index, offset, count, image, c = find_block(channels, clips, frames, pixels, rows, BLOCK_C, False)
    x, dy = x + offset, dy + offset
    mean_c, rstd_c, scale, bias_c = load_affine(weight, bias, mean, rstd, image, c, channels, groups)

    # g is computed again from x and dy, for that costs less than to store it and read it back.
    sum_g = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    sum_gx = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    x_ahead = load_tile(x, 0, count, channels, c, BLOCK_S)
    dy_ahead = load_tile(dy, 0, count, channels, c, BLOCK_S)
    for start in range(0, count, BLOCK_S):
        v, g = x_ahead.to(tl.float32), dy_ahead.to(tl.float32)
        x_ahead = load_tile(x, start + BLOCK_S, count, channels, c, BLOCK_S)
        dy_ahead = load_tile(dy, start + BLOCK_S, count, channels, c, BLOCK_S)
        g = gradient_of(g, (v - mean_c) * scale + bias_c, SILU)
        sum_g += g
        sum_gx += g * (v - mean_c)

    # x_hat = (v - mean) * rstd, and rstd is the same for all rows: it multiplies the sum.
    out = index.to(tl.int64) * channels + c
    tl.store(block_g + out, tl.sum(sum_g, 0), mask=c < channels)
    tl.store(block_gx + out, tl.sum(sum_gx * rstd_c, 0), mask=c < channels)


@triton.jit(do_not_specialize=EXTENTS)
def _sums_kernel(
    block_g, block_gx,  # (blocks, C) float32
    weight,  # (C,)
    mean_g, mean_gx,  # (N, groups) float32, written
    dweight, dbias,  # (C,), written
    channels, groups, sets, blocks, clips, frames, images, pixels, rows,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Reduce the sums of blocks and channels in two ways, by the number of the program.

    1. The first sets * groups programs take a group of a set each, and write the means of g * weight and
       g * x_hat * weight for every image of the set.
    2. The others take BLOCK_G channels each over all blocks, and write dbias and dweight.

    Three phases: find the blocks and channels to add up; add them up in tiles [BLOCK_P, BLOCK_G]; store the result.
    """
    program = tl.program_id(0)
    of_set = program < sets * groups
    group = program % groups
    block, segment_blocks, image, segment_images, block_joined, image_blocks, image_joined, joined = find_set(
        program // groups, clips, frames, images, pixels, rows
    )
    block, segment_blocks = tl.where(of_set, block, 0), tl.where(of_set, segment_blocks, blocks)
    j = tl.arange(0, BLOCK_G)
    c = tl.where(of_set, group * (channels // groups), (program - sets * groups) * BLOCK_G) + j
    known = tl.where(of_set, j < channels // groups, c < channels)
    p = tl.arange(0, BLOCK_P)[:, None]
    at = p * channels + c[None, :]

    # A set's own segment, then each image that joins it; without a set, all blocks as one segment.
    tile_g = tl.zeros([BLOCK_P, BLOCK_G], tl.float32)
    tile_gx = tl.zeros([BLOCK_P, BLOCK_G], tl.float32)
    for k in range(0, 1 + joined):
        first, count = segment_of(k, block, segment_blocks, block_joined, image_blocks)
        for start in range(0, count, BLOCK_P):
            base = (first + start).to(tl.int64) * channels
            inside = (start + p < count) & known[None, :]
            tile_g += tl.load(block_g + base + at, mask=inside, other=0.0)
            tile_gx += tl.load(block_gx + base + at, mask=inside, other=0.0)
    sum_g, sum_gx = tl.sum(tile_g, 0), tl.sum(tile_gx, 0)

    if of_set:
        weight_c = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
        size = (segment_images + joined) * pixels.to(tl.float32) * (channels // groups)
        g, gx = tl.sum(sum_g * weight_c, 0) / size, tl.sum(sum_gx * weight_c, 0) / size
        store_per_image(mean_g, g, mean_gx, gx, group, groups, image, segment_images, image_joined, joined, BLOCK_N)
    else:
        tl.store(dbias + c, sum_g.to(dbias.dtype.element_ty), mask=known)
        tl.store(dweight + c, sum_gx.to(dweight.dtype.element_ty), mask=known)


@triton.jit(do_not_specialize=EXTENTS)
def _input_gradient_kernel(
    x, dy,  # (N, S, C)
    dx,  # like x, written
    added,  # like x, or None: added to dx
    y,  # like x, written, or None
    weight, bias,  # (C,)
    mean, rstd, mean_g, mean_gx,  # (N, groups) float32
    channels, groups, clips, frames, pixels, rows,
    SILU: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write dx = (g * weight - mean_g - x_hat * mean_gx) * rstd + added, and the norm of x, or SiLU of it, again.

    A program takes a block and a slab of channels, the last blocks first. Two phases: load for each channel what does
    not depend on the row; walk the block in tiles.
    """
    _, offset, count, image, c = find_block(channels, clips, frames, pixels, rows, BLOCK_C, True)
    x, dy, dx = x + offset, dy + offset, dx + offset
    mean_c, rstd_c, scale, bias_c = load_affine(weight, bias, mean, rstd, image, c, channels, groups)
    # With these, dx = g * scale - ((v - mean) * slope + shift).
    shift = load_of_groups(mean_g, image, c, channels, groups) * rstd_c
    slope = load_of_groups(mean_gx, image, c, channels, groups) * rstd_c * rstd_c

    x_ahead = load_tile(x, 0, count, channels, c, BLOCK_S)
    dy_ahead = load_tile(dy, 0, count, channels, c, BLOCK_S)
    for start in range(0, count, BLOCK_S):
        v, g = x_ahead.to(tl.float32), dy_ahead.to(tl.float32)
        x_ahead = load_tile(x, start + BLOCK_S, count, channels, c, BLOCK_S)
        dy_ahead = load_tile(dy, start + BLOCK_S, count, channels, c, BLOCK_S)
        at, inside = places(start, count, channels, c, BLOCK_S)
        z = (v - mean_c) * scale + bias_c
        if y is not None:
            tl.store(y + (offset + at), silu_of(z, SILU).to(y.dtype.element_ty), mask=inside)
        g = gradient_of(g, z, SILU) * scale - ((v - mean_c) * slope + shift)
        if added is not None:
            g += tl.load(added + (offset + at), mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + at, g.to(dx.dtype.element_ty), mask=inside)


def unsupported(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> str | None:
    """Return why the kernels cannot run on these tensors, or None."""
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
    """Clips of the batch."""
    frames: int
    """Frames of each clip."""
    images: int
    """Images that join the statistics of each clip."""
    pixels: int
    """Pixels of an image or a frame: height times width."""
    rows: int
    """Rows of a block at most, one row a pixel."""
    blocks: int
    """Blocks of all clips and images."""
    sets: int
    """Sets of rows that share statistics: a clip, with the images that join it, or an image by itself."""
    block_s: int
    """Rows of a tile."""
    block_c: int
    """Channels of a tile."""


def plan(x: Tensor, frames: int, images: int, pool_images: bool) -> Plan:
    """Return how a call on x (N, C, H, W) is cut: the same for the same shapes on the same chip, whatever the dtype."""
    n, channels, pixels = *x.shape[:2], x.shape[2:].numel()
    if frames == 0:  # images alone are clips of one frame, or of all that are pooled
        frames, images = images if pool_images else 1, 0
    clips = n // (frames + images)

    # Short blocks where a tensor is small, so that every multiprocessor has work; never over MOST_ROWS.
    block_c = min(SLAB, triton.next_power_of_2(channels))
    block_s = TILE // block_c
    enough = triton.cdiv(n * pixels * triton.cdiv(channels, block_c), PROGRAMS * chip_of(x).multiprocessors)
    rows = min(MOST_ROWS, triton.cdiv(enough, block_s) * block_s)

    # No block crosses the end of a clip or an image; images that join a clip make no sets of their own.
    blocks = clips * (triton.cdiv(frames * pixels, rows) + images * triton.cdiv(pixels, rows))
    joined = images if pool_images else 0
    return Plan(clips, frames, joined, pixels, rows, blocks, clips * (1 + images - joined), block_s, block_c)


def _launch_tiles(kernel: Any, p: Plan, tensors: tuple[Any, ...], *groups: int, **settings: int) -> None:
    """Launch a program for each block and slab of `tensors[0]`; `groups` is there for kernels that take it."""
    channels = tensors[0].shape[1]
    grid, extents = (p.blocks * triton.cdiv(channels, p.block_c),), (p.clips, p.frames, p.pixels, p.rows)
    launch(kernel, grid, *tensors, channels, *groups, *extents, **settings, BLOCK_S=p.block_s, BLOCK_C=p.block_c)


def _group_tile(p: Plan, group_channels: int) -> dict[str, int]:
    """Return the tile of a kernel that reduces tables (blocks, C) to groups and stores a number per image."""
    block_g, block_n = triton.next_power_of_2(group_channels), triton.next_power_of_2(p.frames + p.images)
    return {"BLOCK_P": TILE // block_g, "BLOCK_G": block_g, "BLOCK_N": block_n}


def _channels_last(x: Tensor) -> Tensor:
    """Return x with the memory (N, H, W, C): a gradient may come in another layout.

    Permuted and made contiguous, because the strides of images of 1 x 1 pixels do not tell the layouts apart.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor,
    groups: int, eps: float, frames: int, images: int, pool_images: bool, silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y like x (N, C, H, W), channels last, and mean and rstd (N, groups) in float32."""
    x, n, channels = _channels_last(x), *x.shape[:2]
    p = plan(x, frames, images, pool_images)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    block_mean, block_m2 = x.new_empty(2, p.blocks, channels, dtype=torch.float32)
    mean, rstd = (x.new_empty(n, groups, dtype=torch.float32) for _ in range(2))

    # Statistics of blocks, then of groups, then the map.
    warps = 8 if chip_of(x).capability == (10, 0) else 4  # 4 spill there; with 8, addresses take more of each thread
    _launch_tiles(_block_statistics_kernel, p, (x, block_mean, block_m2), num_warps=warps)
    tile = _group_tile(p, channels // groups)
    tables = (block_mean, block_m2, mean, rstd)
    launch(_statistics_kernel, (p.sets * groups,), *tables, eps, channels, groups, *p[:5], **tile, num_warps=8)
    _launch_tiles(_apply_kernel, p, (x, y, weight, bias, mean, rstd), groups, SILU=silu)
    return y, mean, rstd


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor,
    groups: int, frames: int, images: int, pool_images: bool, silu: bool, added: Tensor | None, again: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return dx + added like x, channels last, dweight, dbias and y, from dy (N, C, H, W) and what `forward` returned.

    y is empty unless it is wanted `again`.
    """
    x, dy, channels = _channels_last(x), _channels_last(dy), x.shape[1]
    added = None if added is None else _channels_last(added)
    p = plan(x, frames, images, pool_images)
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    block_g, block_gx = x.new_empty(2, p.blocks, channels, dtype=torch.float32)
    mean_g, mean_gx = torch.empty_like(mean), torch.empty_like(mean)

    # Sums of blocks, then of groups and of channels, then the input's gradient.
    tensors, warps = (x, dy, weight, bias, mean, rstd, block_g, block_gx), 8 if x.dtype == torch.float32 else 4
    _launch_tiles(_block_sums_kernel, p, tensors, groups, SILU=silu, num_warps=warps)  # 4 spill in float32 on sm_120
    tables = (block_g, block_gx, weight, mean_g, mean_gx, dweight, dbias)
    tile = _group_tile(p, channels // groups)
    grid = (p.sets * groups + triton.cdiv(channels, tile["BLOCK_G"]),)
    launch(_sums_kernel, grid, *tables, channels, groups, p.sets, p.blocks, *p[:5], **tile)
    y = torch.empty_like(dx) if again else None
    given = (added, y, weight, bias, mean, rstd, mean_g, mean_gx)
    _launch_tiles(_input_gradient_kernel, p, (x, dy, dx, *given), groups, SILU=silu, num_warps=8)  # 4 spill in float16
    return dx, dweight, dbias, x.new_empty(0) if y is None else y


def cost(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Cost:
    """Return the floors for groups that are too large to stay on the chip between their statistics and their use.

    Forward reads x twice and writes y, backward reads x and dy twice and writes dx. FLOPs are those of matrix products.
    """
    parameters, statistics = weight.nbytes + bias.nbytes, 2 * x.shape[0] * groups * 4
    return Cost(3 * x.nbytes + parameters + statistics, 5 * x.nbytes + 2 * parameters + statistics, 0, 0)
