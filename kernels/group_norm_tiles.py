"""What the kernels of GroupNorm are made of: where blocks, segments and sets lie, and loads and stores of tiles.

Blocks, segments and sets are those of group_norm_silu.py: a set is the rows that share statistics, one segment and the
images that join it, and a segment is one clip or one image, cut into blocks. `c` are a program's channels, [C].
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether kernels run in Triton's interpreter, which knows no machine code."""


@triton.jit
def find_block(channels, clips, frames, pixels, rows, BLOCK_C: tl.constexpr, REVERSED: tl.constexpr):
    """Find this program's block and channels: the slabs of a block follow one another.

    Returns the block's index, the offset of its first element, the number of its rows, the first image of its segment,
    and the channels [C].
    """
    program = tl.program_id(0)
    if REVERSED:
        program = tl.num_programs(0) - 1 - program
    slabs = tl.cdiv(channels, BLOCK_C)
    index = program // slabs

    # Blocks are numbered clips first, then images: which segment is this one's, and where in it does it start?
    clip_blocks, image_blocks = tl.cdiv(frames * pixels, rows), tl.cdiv(pixels, rows)
    beyond = index - clips * clip_blocks
    in_clip = beyond < 0
    position = tl.where(in_clip, index, beyond)
    blocks = tl.where(in_clip, clip_blocks, image_blocks)
    images = tl.where(in_clip, frames, 1)  # of a segment
    image = tl.where(in_clip, 0, clips * frames) + position // blocks * images
    start = position % blocks * rows

    # 64 bits, for a tensor may have over 2^31 elements.
    offset = (image * pixels + start).to(tl.int64) * channels
    c = program % slabs * BLOCK_C + tl.arange(0, BLOCK_C)
    return index, offset, tl.minimum(rows, images * pixels - start), image, c


@triton.jit
def find_set(index, clips, frames, images, pixels, rows):
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
    segment_images = tl.where(in_clip, frames, 1)
    block_joined = clips * clip_blocks + index * images * image_blocks
    image_joined = clips * frames + index * images
    return block, blocks, image, segment_images, block_joined, image_blocks, image_joined, tl.where(in_clip, images, 0)


@triton.jit
def segment_of(k, block, blocks, block_joined, image_blocks):
    """Return the first block and the number of blocks of segment k of a set."""
    return tl.where(k == 0, block, block_joined + (k - 1) * image_blocks), tl.where(k == 0, blocks, image_blocks)


@triton.jit
def store_per_image(table_a, a, table_b, b, group, groups, image, own, image_joined, joined, BLOCK_N: tl.constexpr):
    """Store table_a[n, group] = a and table_b[n, group] = b for all images n of a set."""
    i = tl.arange(0, BLOCK_N)
    at = tl.where(i < own, image + i, image_joined + i - own) * groups + group
    tl.store(table_a + at, tl.zeros([BLOCK_N], tl.float32) + a, mask=i < own + joined)
    tl.store(table_b + at, tl.zeros([BLOCK_N], tl.float32) + b, mask=i < own + joined)


@triton.jit
def places(start, count, channels, c, BLOCK_S: tl.constexpr):
    """Return the offsets in a block of its rows from `start`, at channels c [C], and which are inside: [S, C] each."""
    s = tl.arange(0, BLOCK_S)
    at = start * channels + s[:, None] * channels + c[None, :]
    return at, (start + s < count)[:, None] & (c < channels)[None, :]


@triton.jit
def load_tile(x, start, count, channels, c, BLOCK_S: tl.constexpr):
    """Load the rows from `start` of the block at x, at channels c [C]: [S, C].

    Loops load one tile ahead of the one that they use, so that memory is never idle.
    """
    at, inside = places(start, count, channels, c, BLOCK_S)
    return tl.load(x + at, mask=inside, other=0.0)


@triton.jit
def load_of_groups(table, image, c, channels, groups):
    """Load the entries of an image, of a table (N, groups), at the groups of channels c [C], as [1, C]."""
    at = image * groups + c // (channels // groups)
    return tl.load(table + at, mask=c < channels, other=0.0)[None, :]


@triton.jit
def load_affine(weight, bias, mean, rstd, image, c, channels, groups):
    """Load for each channel c, [1, C] each: mean, rstd, and scale and bias of the map of x - mean."""
    weight_c = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    bias_c = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    rstd_c = load_of_groups(rstd, image, c, channels, groups)
    return load_of_groups(mean, image, c, channels, groups), rstd_c, rstd_c * weight_c, bias_c


@triton.jit
def sigmoid_of(z):
    """Return 1 / (1 + exp(-z)), as near as tl.exp and a division come.

    Four instructions, where those take a dozen: the hardware's power of two and reciprocal without the
    scaling for numbers below 1e-38, which a sum with 1 does not need. Beyond z = -88 the result is 0.
    """
    if INTERPRETED:
        return 1.0 / (1.0 + tl.exp(-z))
    else:
        return tl.inline_asm_elementwise(
            "{ mul.f32 $0, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 $0, $0; add.f32 $0, $0, 0f3F800000;"  # -log2(e), 1
            " rcp.approx.ftz.f32 $0, $0; }",
            "=f,f",
            [z],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def silu_of(z, SILU: tl.constexpr):
    """Return SiLU of z, or z without it."""
    if SILU:
        z *= sigmoid_of(z)
    return z


@triton.jit
def gradient_of(dy, z, SILU: tl.constexpr):
    """Return dy * silu'(z), or dy without SiLU."""
    if SILU:
        sigmoid = sigmoid_of(z)
        y = z * sigmoid
        dy *= sigmoid + y - y * sigmoid
    return dy
