"""temporal_attention equals softmax attention with rotary_embedding_torch's rotation, with every gradient."""

import pytest
import torch
from rotary_embedding_torch import RotaryEmbedding

from lavie.ops.temporal_attention import rotary_frequencies, temporal_attention
from lavie.testing import TOLERANCES, check_operation, relative_error


def rotation(rotary_dim, theta):
    """The library's embedding, its frequencies in float64: it keeps them in float32."""
    rotary = RotaryEmbedding(rotary_dim, cache_if_possible=False).double()
    rotary.freqs.data = theta ** (-torch.arange(0, rotary_dim, 2).double() / rotary_dim)
    return rotary


def definition(packed, bias=None, rotary_dim=32, scale=None, theta=10000.0):
    q, k, v = (t.permute(0, 2, 3, 1, 4) for t in packed.unbind(3))  # (B, S, heads, F, D)
    if rotary_dim:
        rotary = rotation(rotary_dim, theta)
        q, k = rotary.rotate_queries_or_keys(q), rotary.rotate_queries_or_keys(k)
    logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = logits if bias is None else logits + bias
    return (logits.softmax(-1) @ v).permute(0, 3, 1, 2, 4)


def inputs(frames, head_dim, positions=7, bias=True, dtype=torch.float32, batch=2, heads=3, total=None):
    """A packed product (B, F, S, 3, heads, D), a bias or None, and a gradient of the output."""
    g = torch.Generator().manual_seed(0)
    packed = torch.randn(batch, total or frames, positions, 3, heads, head_dim, generator=g)
    do = torch.randn(batch, frames, positions, heads, head_dim, generator=g)
    table = torch.randn(heads, frames, frames, generator=g).to(dtype) if bias else None
    return packed.to(dtype), table, do.to(dtype)


def run(function, packed, bias, do):
    """The output, and the gradients of the packed product, whose first frames attend, and of the bias."""
    leaves = [t.detach().clone().requires_grad_() for t in (packed, bias) if t is not None]
    y = function(leaves[0][:, : do.shape[1]], bias=leaves[1] if bias is not None else None)
    return [y.detach(), *torch.autograd.grad(y, leaves, do)]


def check(tensors, rotary_dim=32, **settings):
    dtype = tensors[0].dtype
    actual = run(lambda *a, **k: temporal_attention(*a, **k, rotary_dim=rotary_dim, **settings), *tensors)
    exact = run(
        lambda *a, **k: definition(*a, **k, rotary_dim=rotary_dim, **settings),
        *[t if t is None else t.double() for t in tensors],
    )
    for name, a, e in zip(("o", "dqkv", "dbias"), actual, exact, strict=False):
        assert a.dtype == dtype
        assert relative_error(a, e) <= TOLERANCES[dtype], name
    if tensors[1] is None:
        assert len(actual) == 2
    return actual


@pytest.mark.slow
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("head_dim", (32, 40, 64, 80))
@pytest.mark.parametrize("frames", (1, 5, 16, 20, 33, 61))
def test_equals_the_definition(frames, head_dim, bias):
    check(inputs(frames, head_dim, bias=bias))


@pytest.mark.parametrize("rotary_dim", (0, 8, 32))
@pytest.mark.parametrize("positions", (1, 7))
def test_rotary_dims_and_positions(rotary_dim, positions):
    outputs = check(inputs(16, 40, positions), rotary_dim)
    other = temporal_attention(inputs(16, 40, positions)[0], rotary_dim=16)
    assert relative_error(outputs[0], other) > 0.01  # the rotation does something


@pytest.mark.slow
@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("bias", (True, False))
def test_dtypes(dtype, bias):
    check(inputs(16, 40, dtype=dtype, bias=bias))


@pytest.mark.parametrize("batch,positions,heads", ((1, 1, 1), (1, 1, 3), (2, 3, 1), (2, 3, 3)))
def test_odd_head_dims(batch, positions, heads):
    check(inputs(5, 35, positions, batch=batch, heads=heads))


def test_scale_and_base_of_the_frequencies():
    check(inputs(5, 32), scale=0.5)
    check(inputs(5, 32), theta=300.0)


@pytest.mark.parametrize("total", (20, 17))
def test_frames_of_a_longer_axis(total):
    """A joint batch hands over the first 16 of 20 frames; the images get no gradient."""
    gradient = check(inputs(16, 40, total=total))[1]
    assert not gradient[:, 16:].any() and gradient[:, :16].any()


def test_memory_order_changes_no_bit():
    packed, bias, do = inputs(16, 40)
    expected = run(temporal_attention, packed, bias, do)
    apart = packed.permute(3, 0, 1, 2, 4, 5).contiguous().permute(1, 2, 3, 0, 4, 5)  # q, k and v contiguous each
    for other in (packed[:, :, :, :, :, :40], apart, torch.cat([packed, packed], -1)[..., :40]):
        for a, e in zip(run(temporal_attention, other, bias, do), expected, strict=True):
            assert torch.equal(a, e)
    assert expected[0].is_contiguous() and expected[1].is_contiguous()


def test_large_logits_do_not_overflow():
    packed, bias, do = inputs(16, 32)
    packed = packed * 1000  # logits of 1e6, whose exponentials are infinite
    y, dpacked, dbias = run(temporal_attention, packed, bias, do)
    assert y.isfinite().all() and dpacked.isfinite().all() and dbias.isfinite().all()
    v = packed[:, :, :, 2]
    assert ((y >= v.amin(1, keepdim=True)) & (y <= v.amax(1, keepdim=True))).all()


def test_positions_and_heads_are_independent():
    packed, bias, _ = inputs(5, 32)
    before = temporal_attention(packed, bias=bias)
    packed[1, :, 4, :, 2] += 1
    changed = (temporal_attention(packed, bias=bias) != before).any(-1).any(1)
    assert changed.nonzero().tolist() == [[1, 4, 2]]


def test_frequencies_are_those_of_the_library():
    assert torch.allclose(rotary_frequencies(32).float(), RotaryEmbedding(32).freqs.data)
    assert rotary_frequencies(0).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("bias", (True, False))
def test_results_do_not_depend_on_fresh_memory_and_repeat(poison, bias):
    tensors = inputs(16, 40, bias=bias)
    first = run(temporal_attention, *tensors)
    poison()
    for a, b in zip(first, run(temporal_attention, *tensors), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("dtype,bias", ((torch.float32, True), (torch.float32, False), (torch.bfloat16, True)))
def test_opcheck(dtype, bias):
    packed, table, do = inputs(5, 32, bias=bias, dtype=dtype, total=7)
    qkv = packed[:, :5]
    if bias:
        table.requires_grad_()
    backward = (do, qkv, table.detach() if bias else None, 32, 10000.0, 0.2, "auto")
    forward = (qkv.detach().requires_grad_(), table, 32, 10000.0, 0.2, "auto")
    check_operation("temporal_attention", forward, "temporal_attention_backward", backward)


@pytest.mark.parametrize("bias", (True, False))
def test_compiles_without_graph_breaks(bias):
    tensors = inputs(5, 32, bias=bias)
    compiled = torch.compile(temporal_attention, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, *tensors), run(temporal_attention, *tensors), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()
