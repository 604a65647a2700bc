"""Temporal attention: RoPE, bias, softmax and both products in one pass over q, k and v, forward and backward.

A sequence, one (batch, position, head), has at most 64 frames, so one program holds all its scores in registers: the
forward pass leaves nothing for the backward pass, which reads q, k, v and the output's gradient and recomputes.
Sequences are numbered heads first, as they lie in memory. Up to 16 frames a program takes four, one to a warp, as a
batched product whose 16 rows are just those of a tensor core's tile; with more frames it takes one sequence.

A tile below is (.., ROWS, width): `..` is the program's BLOCK sequences, or nothing where BLOCK is 1. Head dims are
walked in chunks, which the backward pass reads again from the cache rather than keep in registers.
"""

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .cost import Cost
from .launch import chip_of, launch
from .temporal_attention_config import Config, config_of

LOG2_E = tl.constexpr(math.log2(math.e))
"""Turns powers of e into powers of two, which the hardware computes."""
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether kernels run in Triton's interpreter."""

# --- where things are


@triton.jit
def _numbers(block, BLOCK: tl.constexpr):
    """Return the numbers of a block's sequences: (BLOCK, 1, 1), or a scalar where BLOCK is 1."""
    if BLOCK == 1:
        return block
    else:
        return (block * BLOCK + tl.arange(0, BLOCK))[:, None, None]


@triton.jit
def _frames(block, ROWS: tl.constexpr):
    """Return the frame indices 0 to ROWS - 1, (ROWS, 1).

    `block >> 31` is 0, which a compiler cannot know: so it does not move everything that depends on frames out of the
    loop over blocks, into some fifty registers for as long as the loop runs.
    """
    return (tl.arange(0, ROWS) + (block >> 31))[:, None]


@triton.jit
def _rows(n, frame, stride_b, stride_f, stride_s, HEAD_STRIDE: tl.constexpr, positions, HEADS: tl.constexpr):
    """Return the offsets (.., ROWS, 1) of the frames of sequences n, in 64 bits: a clip may have over 2^31 elements."""
    position = n // HEADS
    start = (position // positions).to(tl.int64) * stride_b + (position % positions).to(tl.int64) * stride_s
    return start + n % HEADS * HEAD_STRIDE + frame.to(tl.int64) * stride_f


@triton.jit
def _pairs(h, frame, ROWS: tl.constexpr):
    """Return the offsets (.., ROWS, ROWS) of all pairs of frames into (heads, ROWS, ROWS)."""
    return (h * ROWS + frame) * ROWS + tl.arange(0, ROWS)


# --- tiles


@triton.jit
def _load(x, rows, inside, start, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Load the head dims from start to start + WIDTH of each row, with zeros beyond the head."""
    dim = start + tl.arange(0, WIDTH)
    mask = inside if HEAD_DIM % WIDTH == 0 else inside & (dim < HEAD_DIM)
    return tl.load(x + (rows + dim), mask=mask, other=0.0)


@triton.jit
def _store(x, tile, rows, inside, start, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Store the head dims from start to start + WIDTH of each row."""
    dim = start + tl.arange(0, WIDTH)
    mask = inside if HEAD_DIM % WIDTH == 0 else inside & (dim < HEAD_DIM)
    tl.store(x + (rows + dim), tile.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _zeros(BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Return zero scores, (.., ROWS, ROWS)."""
    if BLOCK == 1:
        return tl.zeros((ROWS, ROWS), tl.float32)
    else:
        return tl.zeros((BLOCK, ROWS, ROWS), tl.float32)


@triton.jit
def _transposed(x):
    """Exchange the last two axes."""
    if len(x.shape) == 3:
        return tl.permute(x, (0, 2, 1))
    else:
        return tl.permute(x, (1, 0))


@triton.jit
def _dot(a, b, accumulator=None):
    """Return the matrix product a b, plus the accumulator, in float32."""
    if INTERPRETED:  # the interpreter would multiply the bits of bfloat16
        return tl.dot(a.to(tl.float32), b.to(tl.float32), accumulator)
    else:  # float32 as three products of TF32 numbers on tensor cores: relative errors of 1e-6
        return tl.dot(a, b, accumulator, input_precision="tf32x3")


# --- RoPE


@triton.jit
def _split(x):
    """Split a tile (.., ROWS, width) into its even and its odd dims."""
    if len(x.shape) == 3:
        return tl.split(tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2] // 2, 2)))
    else:
        return tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))


@triton.jit
def _join(even, odd):
    """Undo `_split`."""
    pairs = tl.join(even, odd)
    if len(pairs.shape) == 4:
        return tl.reshape(pairs, (pairs.shape[0], pairs.shape[1], 2 * pairs.shape[2]))
    else:
        return tl.reshape(pairs, (pairs.shape[0], 2 * pairs.shape[1]))


@triton.jit
def _load_turn(turn, frame, FRAMES: tl.constexpr, ROTARY: tl.constexpr):
    """Load the cosines and sines of each frame, (ROWS, ROTARY / 2) each, from complex numbers (F, ROTARY / 2)."""
    return _split(tl.load(turn + frame * ROTARY + tl.arange(0, ROTARY), mask=frame < FRAMES, other=0.0))


@triton.jit
def _load_turned(x, rows, inside, cos, sin, ROTARY: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Load the even and the odd rotary dims of each row, turned by its frame."""
    tile = _load(x, rows, inside, 0, ROTARY, HEAD_DIM)
    even, odd = _split(tile.to(tl.float32))
    return (even * cos - odd * sin).to(tile.dtype), (odd * cos + even * sin).to(tile.dtype)


# --- kernels


@triton.jit
def _probabilities(
    q, k, bias, turn,  # as in temporal_attention_forward
    rows, inside,  # (.., ROWS, 1): offsets into q and k, and which rows exist
    h, frame, scale,  # heads of the sequences, frame indices (ROWS, 1), factor of the scores
    FRAMES: tl.constexpr, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Return softmax(scale q k^T + bias), (.., ROWS, ROWS).

    Three phases: the product over RoPE's dims, which are turned first; the product over the other dims, in chunks; and
    the softmax, in powers of two, without the columns beyond the last frame.
    """
    scores = _zeros(BLOCK, ROWS)
    if ROTARY > 0:  # even and odd dims apart: their order does not matter to the product
        cos, sin = _load_turn(turn, frame, FRAMES, ROTARY)
        q_even, q_odd = _load_turned(q, rows, inside, cos, sin, ROTARY, HEAD_DIM)
        k_even, k_odd = _load_turned(k, rows, inside, cos, sin, ROTARY, HEAD_DIM)
        scores = _dot(q_odd, _transposed(k_odd), _dot(q_even, _transposed(k_even)))

    # In chunks, for a whole head does not fit into registers beside the scores.
    if ROTARY < HEAD_DIM:
        factor: tl.constexpr = (HEAD_DIM - ROTARY + CHUNK - 1) // CHUNK if UNROLL else 1
        for start in tl.range(ROTARY, HEAD_DIM, CHUNK, num_stages=1, disable_licm=True, loop_unroll_factor=factor):
            q_tile = _load(q, rows, inside, start, CHUNK, HEAD_DIM)
            k_tile = _load(k, rows, inside, start, CHUNK, HEAD_DIM)
            scores = _dot(q_tile, _transposed(k_tile), scores)

    # Rows beyond the last frame hold zeros and stay finite; they are not stored.
    scores *= scale * LOG2_E
    if bias is not None:
        scores += tl.load(bias + _pairs(h, frame, ROWS)).to(tl.float32) * LOG2_E
    if FRAMES < ROWS:
        scores = tl.where(tl.arange(0, ROWS) < FRAMES, scores, float("-inf"))
    p = tl.exp2(scores - tl.max(scores, -1, keep_dims=True))
    return p / tl.sum(p, -1, keep_dims=True)


@triton.jit
def temporal_attention_forward(
    q, k, v,  # (B, F, S, heads, D)
    o,  # (B, F, S, heads, D), contiguous
    bias,  # (heads, ROWS, ROWS), contiguous, or None
    turn,  # (F, ROTARY / 2, 2): cosines and sines, or None
    x_b, x_f, x_s, o_b, o_f, o_s,  # strides of q, k, v and of o
    positions, sequences, scale,  # S; B * S * heads; factor of the scores
    X_HEAD: tl.constexpr, HEADS: tl.constexpr, FRAMES: tl.constexpr, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Write the attention of a block of sequences for each program: the probabilities, then their product with v.

    q, k, v have strides (x_b, x_f, x_s, X_HEAD, 1), o has (o_b, o_f, o_s, HEAD_DIM, 1).
    """
    n, frame = _numbers(tl.program_id(0), BLOCK), _frames(tl.program_id(0), ROWS)
    inside = (n < sequences) & (frame < FRAMES)
    rows = _rows(n, frame, x_b, x_f, x_s, X_HEAD, positions, HEADS)
    o_rows = _rows(n, frame, o_b, o_f, o_s, HEAD_DIM, positions, HEADS)

    # Rounded to the dtype of v, for the product on tensor cores.
    p = _probabilities(
        q, k, bias, turn, rows, inside, n % HEADS, frame, scale,
        FRAMES, HEAD_DIM, ROTARY, BLOCK, ROWS, CHUNK, UNROLL,
    ).to(v.dtype.element_ty)  # fmt: skip

    factor: tl.constexpr = (HEAD_DIM + CHUNK - 1) // CHUNK if UNROLL else 1
    for start in tl.range(0, HEAD_DIM, CHUNK, num_stages=1, disable_licm=True, loop_unroll_factor=factor):
        tile = _dot(p, _load(v, rows, inside, start, CHUNK, HEAD_DIM))
        _store(o, tile, o_rows, inside, start, CHUNK, HEAD_DIM)


@triton.jit
def _store_product(
    dx,  # dq or dk, written
    ds,  # (.., ROWS, ROWS): the gradient of the scores, for dk transposed
    x, turn,  # k for dq, q for dk; and the rotations
    rows, g_rows, inside,  # (.., ROWS, 1): offsets into x and dx, and which rows exist
    frame, scale,
    FRAMES: tl.constexpr, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr, CHUNK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Write scale ds x to dx, where RoPE's dims of x are turned before the product and turned back after it."""
    if ROTARY > 0:
        cos, sin = _load_turn(turn, frame, FRAMES, ROTARY)
        even, odd = _load_turned(x, rows, inside, cos, sin, ROTARY, HEAD_DIM)
        even, odd = _dot(ds, even) * scale, _dot(ds, odd) * scale
        _store(dx, _join(even * cos + odd * sin, odd * cos - even * sin), g_rows, inside, 0, ROTARY, HEAD_DIM)
    if ROTARY < HEAD_DIM:
        factor: tl.constexpr = (HEAD_DIM - ROTARY + CHUNK - 1) // CHUNK if UNROLL else 1
        for start in tl.range(ROTARY, HEAD_DIM, CHUNK, num_stages=1, disable_licm=True, loop_unroll_factor=factor):
            product = _dot(ds, _load(x, rows, inside, start, CHUNK, HEAD_DIM)) * scale
            _store(dx, product, g_rows, inside, start, CHUNK, HEAD_DIM)


@triton.jit
def _backward_block(
    block,  # which block of sequences
    q, k, v, do, dq, dk, dv, bias, turn,  # these and below: as in temporal_attention_backward
    x_b, x_f, x_s, o_b, o_f, o_s, g_b, g_f, g_s, positions, sequences, scale,
    X_HEAD: tl.constexpr, O_HEAD: tl.constexpr,
    HEADS: tl.constexpr, FRAMES: tl.constexpr, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Write a block's dq, dk and dv; return its gradient of the scores, (.., ROWS, ROWS).

    Four phases: the probabilities again; in chunks of head dims their gradient, and dv; the gradient of the scores
    through the softmax; and its products with k and q.
    """
    n, frame = _numbers(block, BLOCK), _frames(block, ROWS)
    inside = (n < sequences) & (frame < FRAMES)
    rows = _rows(n, frame, x_b, x_f, x_s, X_HEAD, positions, HEADS)
    o_rows = _rows(n, frame, o_b, o_f, o_s, O_HEAD, positions, HEADS)
    g_rows = _rows(n, frame, g_b, g_f, g_s, HEAD_DIM, positions, HEADS)

    # Computed again: to keep them from the forward pass would cost more memory than q, k and v.
    p = _probabilities(
        q, k, bias, turn, rows, inside, n % HEADS, frame, scale,
        FRAMES, HEAD_DIM, ROTARY, BLOCK, ROWS, CHUNK, UNROLL,
    )  # fmt: skip

    # dp = do v^T and dv = p^T do, one chunk of do serving both.
    p_transposed = _transposed(p.to(v.dtype.element_ty))
    dp = _zeros(BLOCK, ROWS)
    factor: tl.constexpr = (HEAD_DIM + CHUNK - 1) // CHUNK if UNROLL else 1
    for start in tl.range(0, HEAD_DIM, CHUNK, num_stages=1, disable_licm=True, loop_unroll_factor=factor):
        do_tile = _load(do, o_rows, inside, start, CHUNK, HEAD_DIM)
        dp = _dot(do_tile, _transposed(_load(v, rows, inside, start, CHUNK, HEAD_DIM)), dp)
        _store(dv, _dot(p_transposed, do_tile), g_rows, inside, start, CHUNK, HEAD_DIM)

    # Through the softmax, then dq = ds k and dk = ds^T q, in the dtype of tensor cores' operands.
    ds = p * (dp - tl.sum(dp * p, -1, keep_dims=True))
    rounded = ds.to(q.dtype.element_ty)
    _store_product(
        dq, rounded, k, turn, rows, g_rows, inside, frame, scale, FRAMES, HEAD_DIM, ROTARY, CHUNK, UNROLL
    )  # fmt: skip
    _store_product(
        dk, _transposed(rounded), q, turn, rows, g_rows, inside, frame, scale, FRAMES, HEAD_DIM, ROTARY, CHUNK, UNROLL
    )  # fmt: skip
    return ds


@triton.jit
def temporal_attention_backward(
    q, k, v,  # (B, F, S, heads, D)
    do,  # (B, F, S, heads, D): the gradient of o
    dq, dk, dv,  # (B, F, S, heads, D), written
    bias,  # (heads, ROWS, ROWS), contiguous, or None
    dbias,  # (programs * BLOCK, ROWS, ROWS) float32, contiguous, written; None without a bias
    turn,  # (F, ROTARY / 2, 2): cosines and sines, or None
    x_b, x_f, x_s, o_b, o_f, o_s, g_b, g_f, g_s,  # strides of q, k, v, of do, and of dq, dk, dv
    positions, sequences, scale,  # S; B * S * heads; factor of the scores
    X_HEAD: tl.constexpr, O_HEAD: tl.constexpr,
    HEADS: tl.constexpr, FRAMES: tl.constexpr, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Write the gradients of q, k and v, and partial sums of the gradient of the bias.

    do has strides (o_b, o_f, o_s, O_HEAD, 1), dq, dk, dv have (g_b, g_f, g_s, HEAD_DIM, 1).

    1. Without a bias a program takes one block of sequences.
    2. With one it takes every num_programs-th block, and adds up in registers what it writes to its BLOCK entries of
       dbias. The host chooses as many programs as make each entry meet the sequences of one head only.
    """
    first = tl.program_id(0)
    if bias is None:
        _backward_block(
            first, q, k, v, do, dq, dk, dv, bias, turn,
            x_b, x_f, x_s, o_b, o_f, o_s, g_b, g_f, g_s, positions, sequences, scale,
            X_HEAD, O_HEAD, HEADS, FRAMES, HEAD_DIM, ROTARY, BLOCK, ROWS, CHUNK, UNROLL,
        )  # fmt: skip

    else:
        # The sum over all blocks, per entry: no atomics, so that results are deterministic.
        total = _zeros(BLOCK, ROWS)
        blocks = tl.cdiv(sequences, BLOCK)
        for block in tl.range(first, blocks, tl.num_programs(0), num_stages=1, disable_licm=True):
            total += _backward_block(
                block, q, k, v, do, dq, dk, dv, bias, turn,
                x_b, x_f, x_s, o_b, o_f, o_s, g_b, g_f, g_s, positions, sequences, scale,
                X_HEAD, O_HEAD, HEADS, FRAMES, HEAD_DIM, ROTARY, BLOCK, ROWS, CHUNK, UNROLL,
            )  # fmt: skip
        tl.store(dbias + _pairs(_numbers(first, BLOCK), tl.arange(0, ROWS)[:, None], ROWS), total)


# --- launches


def unsupported(qkv: Tensor, bias: Tensor | None, rotary_dim: int) -> str | None:
    """Return why the kernels do not take these arguments of temporal_attention, or None."""
    frames, head_dim = qkv.shape[1], qkv.shape[-1]
    if qkv.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"q, k, v are {qkv.dtype}, and kernels want float32, bfloat16 or float16"
    if qkv.numel() == 0 or frames > 64:
        return f"q has the shape {tuple(qkv[:, :, :, 0].shape)}, and kernels want 1 to 64 frames and no empty axis"
    if head_dim % 8 or not 32 <= head_dim <= 160:
        return f"head_dim is {head_dim}, and kernels want a multiple of 8 from 32 to 160"
    if rotary_dim not in (0, 32, 64, 128) or rotary_dim > head_dim:
        return f"rotary_dim is {rotary_dim}, and kernels want 0, 32, 64 or 128, and at most head_dim, {head_dim}"
    return None


def forward(qkv: Tensor, bias: Tensor | None, turn: Tensor | None, scale: float) -> Tensor:
    """Return the attention (B, F, S, heads, D) of qkv (B, F, S, 3, heads, D).

    bias: (heads, F, F) or None; turn: complex64 (F, rotary_dim / 2), the rotation of each frame, or None.
    """
    q, k, v = _unpacked(qkv)
    batch, _, positions, heads, head_dim = q.shape
    o = q.new_empty(q.shape)
    config, constants = _constants(q, bias, turn)
    if head_dim % 32 == 0:
        constants["CHUNK"] = 32  # no gradients: registers to spare

    sequences = batch * positions * heads
    launch(
        temporal_attention_forward, (triton.cdiv(sequences, config.block),),
        q, k, v, o, _padded(bias, config.rows), _real(turn),
        *q.stride()[:3], *o.stride()[:3], positions, sequences, scale,
        X_HEAD=q.stride(3), **constants, num_warps=config.num_warps,
    )  # fmt: skip
    return o


def backward(do: Tensor, qkv: Tensor, bias: Tensor | None, turn: Tensor | None, scale: float) -> list[Tensor]:
    """Return the gradient of qkv, a contiguous tensor shaped like it, then that of the bias if there is one."""
    q, k, v = _unpacked(qkv)
    do = do if do.stride(-1) == 1 else do.contiguous()  # such as the expanded gradient of a sum
    batch, frames, positions, heads, _ = q.shape
    gradient = qkv.new_empty(qkv.shape)
    dq, dk, dv = gradient.unbind(3)
    config, constants = _constants(q, bias, turn)

    # With a bias, few programs that loop, for few partial sums, and such a number that each sum meets one head only.
    sequences = batch * positions * heads
    programs, dbias = triton.cdiv(sequences, config.block), None
    if bias is not None:
        of_all_heads = heads // math.gcd(heads, config.block)  # so many blocks begin with the first head again
        programs = min(programs, chip_of(q).multiprocessors * config.per_multiprocessor)
        programs = max(programs // of_all_heads, 1) * of_all_heads
        dbias = q.new_empty((programs * config.block, config.rows, config.rows), dtype=torch.float32)

    launch(
        temporal_attention_backward, (programs,),
        q, k, v, do, dq, dk, dv, _padded(bias, config.rows), dbias, _real(turn),
        *q.stride()[:3], *do.stride()[:3], *dq.stride()[:3], positions, sequences, scale,
        X_HEAD=q.stride(3), O_HEAD=do.stride(3), **constants, num_warps=config.num_warps,
    )  # fmt: skip

    # The partial sums in a fixed order, without the rows and columns that pad the table.
    if bias is None or dbias is None:
        return [gradient]
    return [gradient, dbias.unflatten(0, (-1, heads))[..., :frames, :frames].sum(0).to(bias.dtype)]


def _unpacked(qkv: Tensor) -> tuple[Tensor, ...]:
    """Return q, k and v, views of qkv, or of a copy if the dims of a head are no neighbours in memory."""
    return (qkv if qkv.stride(-1) == 1 else qkv.contiguous()).unbind(3)


def _padded(bias: Tensor | None, rows: int) -> Tensor | None:
    """Pad the bias (heads, F, F) to (heads, ROWS, ROWS), contiguous, which is read in wide pieces at any F."""
    if bias is None:
        return None
    beyond = rows - bias.shape[-1]
    return F.pad(bias, (0, beyond, 0, beyond)).contiguous() if beyond else bias.contiguous()


def _real(turn: Tensor | None) -> Tensor | None:
    """Return complex numbers as pairs of real ones: Triton has no complex type."""
    return None if turn is None else torch.view_as_real(turn)


def _constants(q: Tensor, bias: Tensor | None, turn: Tensor | None) -> tuple[Config, dict[str, int | bool]]:
    """Return how the kernels run, and the compile-time arguments that both have."""
    config = config_of(q, bias)
    _, frames, _, heads, head_dim = q.shape
    return config, {
        "HEADS": heads,
        "FRAMES": frames,
        "HEAD_DIM": head_dim,
        "ROTARY": 0 if turn is None else 2 * turn.shape[1],
        "BLOCK": config.block,
        "ROWS": config.rows,
        "CHUNK": config.chunk,
        "UNROLL": config.unroll,
    }


def cost(qkv: Tensor, bias: Tensor | None) -> Cost:
    """Return the floors of an attention of qkv (B, F, S, 3, heads, D) and of its gradients.

    Forward reads q, k, v and writes o; backward reads them and do, and writes three gradients. Matrix products: two
    forward; five backward, of which one is the scores again.
    """
    q = qkv[:, :, :, 0]
    tensor = q.numel() * q.element_size()
    table = 0 if bias is None else bias.numel() * bias.element_size()
    product = 2 * q.numel() * q.shape[1]
    return Cost(4 * tensor + table, 7 * tensor + 2 * table, 2 * product, 5 * product)
