"""The kernels of temporal_attention equal float64's definition, forward and every gradient, at any shape and dtype."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton")

from lavie.errors import KernelError
from lavie.kernels import temporal_attention as kernels
from lavie.kernels.launch import CHIPS, recording
from lavie.ops.temporal_attention import temporal_attention
from lavie.testing import TOLERANCES, check_operation, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRUNCATED = 1 if DEVICE == "cuda" else 2
"""Triton's interpreter cuts bits off where a GPU rounds to the nearest bfloat16: twice the error."""


def definition(qkv, bias=None, rotary_dim=32, theta=10000.0, scale=None):
    q, k, v = (x.permute(0, 2, 3, 1, 4) for x in qkv.unbind(3))  # (B, S, heads, F, D)
    if rotary_dim:
        frame = torch.arange(q.shape[3], device=q.device, dtype=q.dtype)[:, None]
        index = torch.arange(0, rotary_dim, 2, device=q.device, dtype=q.dtype)
        cos, sin = (f(frame * theta ** -(index / rotary_dim)) for f in (torch.cos, torch.sin))
        q, k = turned(q, cos, sin), turned(k, cos, sin)
    logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = logits if bias is None else logits + bias
    return (logits.softmax(-1) @ v).permute(0, 3, 1, 2, 4)


def turned(x, cos, sin):
    rotary, rest = x.tensor_split([2 * cos.shape[-1]], -1)
    even, odd = rotary[..., 0::2], rotary[..., 1::2]
    return torch.cat([torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2), rest], -1)


def inputs(frames, head_dim, positions=2, bias=True, dtype=torch.float32, batch=1, heads=3, total=None):
    """A packed product (B, F, S, 3, heads, D), a bias or None, and a gradient of the output."""
    g = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, total or frames, positions, 3, heads, head_dim, generator=g)
    do = torch.randn(batch, frames, positions, heads, head_dim, generator=g)
    table = torch.randn(heads, frames, frames, generator=g).to(DEVICE, dtype) if bias else None
    return qkv.to(DEVICE, dtype), table, do.to(DEVICE, dtype)


def run(function, qkv, bias, do):
    """The output, and the gradients of qkv, whose first frames attend to one another, and of the bias."""
    leaves = [t.detach().requires_grad_() for t in (qkv, bias) if t is not None]
    y = function(leaves[0][:, : do.shape[1]], bias=leaves[1] if bias is not None else None)
    return [y.detach(), *torch.autograd.grad(y, leaves, do)]


def packed(qkv, **call):
    return temporal_attention(qkv, **call, backend="triton")


def check(tensors, function=packed, **call):
    actual = run(lambda *a, **k: function(*a, **k, **call), *tensors)
    exact = run(lambda *a, **k: definition(*a, **k, **call), *(t if t is None else t.double() for t in tensors))
    for name, a, e, like in zip(("o", "dqkv", "dbias"), actual, exact, (tensors[2], *tensors[:2]), strict=False):
        assert a.dtype == like.dtype and a.shape == like.shape
        limit = TOLERANCES[tensors[0].dtype] * (TRUNCATED if tensors[0].dtype == torch.bfloat16 else 1)
        assert relative_error(a, e) <= limit, name
    return actual


@pytest.mark.parametrize("bias,rotary_dim", ((True, 32), (False, 0)))
@pytest.mark.parametrize("head_dim", (32, 40, 80, 160))
@pytest.mark.parametrize("frames", (1, 5, 16, 20, 33, 61, 64))
def test_sizes(frames, head_dim, bias, rotary_dim):
    check(inputs(frames, head_dim, 1, bias), rotary_dim=rotary_dim)


@pytest.mark.parametrize("head_dim", (48, 56, 64, 88, 96, 128, 152))
def test_other_head_dims(head_dim):
    check(inputs(16, head_dim))


@pytest.mark.slow
@pytest.mark.parametrize("bias,rotary_dim", ((True, 0), (False, 32), (False, 64), (True, 128)))
@pytest.mark.parametrize("frames", (8, 33))
def test_switches(frames, bias, rotary_dim):
    check(inputs(frames, 136, bias=bias), rotary_dim=rotary_dim, theta=500.0, scale=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("frames,head_dim", ((16, 40), (16, 160), (20, 80), (61, 40)))
def test_dtypes(frames, head_dim, dtype):
    check(inputs(frames, head_dim, bias=frames < 61, dtype=dtype), rotary_dim=32 if frames < 61 else 0)


def test_float32_bias_over_low_precision():
    qkv, bias, do = inputs(16, 40, dtype=torch.bfloat16)
    check((qkv, bias.float(), do))


@pytest.mark.slow
@pytest.mark.parametrize("batch,positions,heads", ((1, 1, 1), (2, 1, 3), (3, 5, 1), (2, 7, 2), (1, 3, 8), (2, 13, 6)))
def test_batches_positions_and_heads(batch, positions, heads):
    """The last few also have a program add up the biases' gradients of several blocks."""
    check(inputs(5, 32, positions, batch=batch, heads=heads))


@pytest.mark.parametrize("frames,total", ((16, 20), (16, 17), (33, 40)))
def test_frames_of_a_longer_axis(frames, total):
    """A joint batch hands over the first 16 of 20 frames; the images get no gradient."""
    gradient = check(inputs(frames, 40, total=total, batch=2))[1]
    assert not gradient[:, frames:].any() and gradient[:, :frames].any()


def test_memory_order_changes_no_bit():
    qkv, bias, do = inputs(16, 40)
    expected = run(packed, qkv, bias, do)
    permuted = qkv.permute(5, 3, 0, 4, 2, 1).contiguous().permute(2, 5, 4, 1, 3, 0)  # frames innermost
    slices = torch.cat([qkv, qkv], -1)[..., :40]
    for again in (qkv.contiguous(), permuted, slices):
        for a, e in zip(run(packed, again, bias, do), expected, strict=True):
            assert torch.equal(a, e) and a.is_contiguous()


def test_expanded_and_permuted_gradients():
    qkv, bias, do = inputs(16, 40)
    for other in (do.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0), do[:, :1, :1, :1, :1].expand_as(do)):
        for a, e in zip(run(packed, qkv, bias, other), run(packed, qkv, bias, other.contiguous()), strict=True):
            assert torch.equal(a, e)


@pytest.mark.slow
@pytest.mark.parametrize("frames,bias", ((16, True), (5, False), (33, True)))
def test_results_do_not_depend_on_fresh_memory_and_repeat(poison, frames, bias):
    tensors = inputs(frames, 40, bias=bias)
    first = run(packed, *tensors)
    poison()
    for a, e in zip(first, run(packed, *tensors), strict=True):
        assert torch.equal(a, e) and a.isfinite().all()


def test_large_logits_do_not_overflow():
    qkv, bias, do = inputs(5, 32)
    qkv = qkv * 1000  # logits of 1e6, whose exponentials are infinite
    for result in run(packed, qkv, bias, do):
        assert result.isfinite().all()


def test_one_value_for_all_frames_comes_out():
    """Probabilities add up to one."""
    qkv, bias, _ = inputs(20, 40)
    qkv[:, :, :, 2] = qkv[:, :1, :, 2]
    assert relative_error(packed(qkv, bias=bias), qkv[:, :, :, 2]) <= TOLERANCES[torch.float32]


@pytest.mark.parametrize("axis,shape", ((0, (3, 2, 1)), (1, (1, 3, 1)), (2, (1, 2, 3))))
def test_offsets_beyond_32_bits(axis, shape):
    """Batches, frames or positions 2^30 elements apart: only the pages that are used take memory."""
    qkv, bias, do = inputs(shape[1], 32, batch=shape[0], positions=shape[2], heads=1, dtype=torch.float16)
    strides = list(qkv.stride())
    strides[axis] = 2**30
    far = torch.empty(2**31 + qkv.numel(), dtype=qkv.dtype, device=DEVICE).as_strided(qkv.shape, strides).copy_(qkv)
    for a, e in zip(run(packed, far, bias, do), run(packed, qkv, bias, do), strict=True):
        assert torch.equal(a, e)


def noted(positions, frames=8, heads=8, head_dim=64, bias=True, batch=2):
    """The launches of a forward and a backward pass on a GPU, and the tensors q and do."""
    meta = torch.device("meta")
    qkv = torch.empty(batch, frames, positions, 3, heads, head_dim, dtype=torch.bfloat16, device=meta)
    table = torch.empty(heads, frames, frames, device=meta) if bias else None
    turn = torch.empty(frames, 16, dtype=torch.complex64, device=meta)
    with recording(CHIPS[9, 0]) as seen:
        o = kernels.forward(qkv, table, turn, 0.1)
        kernels.backward(o, qkv, table, turn, 0.1)
    return seen.launches


@pytest.mark.parametrize("bias", (True, False))
def test_any_number_of_sequences_fits_the_grid(bias):
    """A CUDA grid is long on its first axis, and has 65,535 programs on the others."""
    forward, backward = noted(160 * 256, bias=bias)
    sequences = 2 * 160 * 256 * 8
    assert forward.grid == (sequences // 4,) and forward.grid[0] > 65535
    assert len(backward.grid) == 1 and (backward.grid[0] < 2000 if bias else backward.grid == forward.grid)


@pytest.mark.parametrize("positions", (1, 5, 40 * 64))
@pytest.mark.parametrize("heads", (1, 3, 6, 8))
@pytest.mark.parametrize("frames", (16, 61))
def test_each_slot_of_a_program_meets_one_head(frames, heads, positions):
    launch = noted(positions, frames, heads, 32)[1]
    assert launch.grid[0] * launch.constants["BLOCK"] % heads == 0


def test_packed_views_are_read_in_place():
    qkv, bias, do = inputs(16, 40, total=20)
    qkv = qkv[:, :16]
    with recording(CHIPS[9, 0]) as seen:
        kernels.forward(qkv, bias, None, 0.1)
        kernels.backward(do, qkv, bias, None, 0.1)
    assert len(seen.launches) == 2
    for launch in seen.launches:
        assert [t.data_ptr() for t in launch.args[:3]] == [t.data_ptr() for t in qkv.unbind(3)]
    assert seen.launches[1].args[3].data_ptr() == do.data_ptr()


@pytest.mark.parametrize("bias", (True, False))
def test_compiles_without_graph_breaks(bias):
    tensors = inputs(5, 32, bias=bias)
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    for a, e in zip(run(compiled, *tensors), run(packed, *tensors), strict=True):
        assert torch.equal(a, e) and a.stride() == e.stride()


@pytest.mark.parametrize("bias", (True, False))
def test_checkpointing_changes_no_bit(bias):
    tensors = inputs(5, 32, bias=bias)

    def again(qkv, bias):
        return checkpoint(packed, qkv, bias=bias, use_reentrant=False)

    for a, e in zip(run(again, *tensors), run(packed, *tensors), strict=True):
        assert torch.equal(a, e)


@pytest.mark.slow
@pytest.mark.parametrize("bias", (True, False))
def test_opcheck(bias):
    qkv, table, do = inputs(5, 32, positions=1, bias=bias, total=7)
    qkv, table = qkv[:, :5], table.requires_grad_() if bias else None
    backward = (do, qkv, table.detach() if bias else None, 32, 1e4, 0.2, "triton")
    forward = (qkv.detach().requires_grad_(), table, 32, 1e4, 0.2, "triton")
    check_operation("temporal_attention", forward, "temporal_attention_backward", backward)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    frames=st.integers(1, 64),
    head_dim=st.integers(4, 20).map(lambda n: 8 * n),
    batch=st.integers(1, 2),
    positions=st.integers(1, 3),
    heads=st.integers(1, 2),
    bias=st.booleans(),
    rotary_dim=st.sampled_from((0, 32, 64, 128)),
    dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
)
def test_any_shape(frames, head_dim, batch, positions, heads, bias, rotary_dim, dtype):
    tensors = inputs(frames, head_dim, positions, bias, dtype, batch, heads)
    check(tensors, rotary_dim=rotary_dim if rotary_dim <= head_dim else 0)


@pytest.mark.parametrize(
    "shape,dtype,rotary_dim,reason",
    (
        ((1, 5, 2, 3, 3, 32), torch.float64, 32, "q, k, v are torch.float64"),
        ((1, 65, 2, 3, 3, 32), torch.float32, 32, "1 to 64 frames"),
        ((1, 5, 0, 3, 3, 32), torch.float32, 32, "no empty axis"),
        ((1, 5, 2, 3, 3, 36), torch.float32, 32, "head_dim is 36"),
        ((1, 5, 2, 3, 3, 24), torch.float32, 0, "head_dim is 24"),
        ((1, 5, 2, 3, 3, 168), torch.float32, 0, "head_dim is 168"),
        ((1, 5, 2, 3, 3, 48), torch.float32, 16, "rotary_dim is 16"),
        ((1, 5, 2, 3, 3, 48), torch.float32, 48, "rotary_dim is 48"),
        ((1, 5, 2, 3, 3, 40), torch.float32, 64, "rotary_dim is 64"),
    ),
)
def test_says_what_it_does_not_take(shape, dtype, rotary_dim, reason):
    qkv = torch.randn(shape, device=DEVICE).to(dtype)
    with pytest.raises(KernelError, match=reason):
        packed(qkv, rotary_dim=rotary_dim)
    if "rotary_dim is 64" not in reason:
        assert temporal_attention(qkv, rotary_dim=rotary_dim).shape == qkv[:, :, :, 0].shape


@pytest.mark.parametrize("bias", (True, False))
def test_cost(bias):
    tensors = inputs(5, 40, bias=bias, dtype=torch.bfloat16)
    qkv, table, do = tensors
    cost = kernels.cost(qkv, table)
    o, *gradients = run(packed, *tensors)
    tables = 0 if table is None else table.nbytes
    assert cost.forward_bytes == qkv.nbytes + tables + o.nbytes
    assert cost.backward_bytes == qkv.nbytes + tables + do.nbytes + sum(g.nbytes for g in gradients)
    with FlopCounterMode(display=False) as forward:
        definition(qkv, table)
    with FlopCounterMode(display=False) as both:
        run(definition, *tensors)
    assert cost.forward_flops == forward.get_total_flops()
    scores = forward.get_total_flops() // 2  # one of two products, computed again rather than kept
    assert cost.backward_flops == both.get_total_flops() - forward.get_total_flops() + scores
