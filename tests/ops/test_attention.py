"""attention equals softmax attention on strided views, and its heads merge without a copy."""

import pytest
import torch

from lavie.errors import KernelError
from lavie.ops.attention import attention, require_attention
from lavie.testing import TOLERANCES, relative_error
from tests.markers import requires_gpu


def definition(q, k, v):
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return ((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2)


def packed(*shape, count, dtype=torch.float32, seed=0):
    """(N, S, count, heads, D): what one product with packed weights gives."""
    n, s, heads, d = shape
    return torch.randn(n, s, count, heads, d, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def check(function, leaves, dtype):
    """Output and gradients of function(*leaves) with `attention` against the definition in float64."""
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    y, exact = function(attention, *leaves), function(definition, *exact_leaves)
    assert y.is_contiguous() and y.flatten(-2).data_ptr() == y.data_ptr()
    do = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    gradients = torch.autograd.grad(y, leaves, do)
    exact_gradients = torch.autograd.grad(exact, exact_leaves, do.double())
    for a, e in zip((y.detach(), *gradients), (exact.detach(), *exact_gradients), strict=True):
        assert a.dtype == dtype
        assert relative_error(a, e) <= TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize("shape", ((3, 35, 2, 40), (1, 2, 1, 32), (2, 130, 4, 16)))
def test_self_attention_on_a_packed_product(shape, dtype):
    check(lambda f, qkv: f(*qkv.unbind(2)), [packed(*shape, count=3, dtype=dtype)], dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("length", (2, 7, 77))
def test_cross_attention_with_another_length(length, dtype):
    leaves = [packed(2, 35, 2, 40, count=1, dtype=dtype), packed(2, length, 2, 40, count=2, dtype=dtype, seed=1)]
    check(lambda f, q, kv: f(q[:, :, 0], *kv.unbind(2)), leaves, dtype)


def test_one_key_is_taken_as_it_is():
    q, k, v = packed(2, 1, 2, 40, count=3).unbind(2)
    assert torch.equal(attention(q.expand(-1, 5, -1, -1), k, v), v.expand(-1, 5, -1, -1))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
def test_memory_merges_heads_without_gradients_too(dtype):
    with torch.no_grad():
        y = attention(*packed(2, 35, 4, 16, count=3, dtype=dtype).unbind(2))
    assert y.shape == (2, 35, 4, 16) and y.is_contiguous()


def test_flash_attn_that_cannot_run_is_an_error():
    q, k, v = packed(2, 35, 2, 40, count=3).unbind(2)
    with pytest.raises(KernelError, match=r"flash-attn.*set attention to sdpa"):
        attention(q, k, v, backend="flash-attn")
    with pytest.raises(KernelError, match=r"flash-attn.*set attention to sdpa"):
        require_attention("flash-attn", torch.device("cpu"))
    require_attention("sdpa", torch.device("cpu"))


@requires_gpu
@pytest.mark.parametrize("head_dim", (40, 80, 160))
def test_flash_attn_equals_the_definition(head_dim):
    pytest.importorskip("flash_attn")
    leaves = [packed(2, 130, 2, head_dim, count=3, dtype=torch.bfloat16).detach().cuda().requires_grad_()]
    q, k, v = leaves[0].unbind(2)
    exact = definition(*(t.double() for t in (q, k, v)))
    y = attention(q, k, v, backend="flash-attn")
    do = torch.randn_like(y)
    pairs = zip(
        (y, *torch.autograd.grad(y, leaves, do)), (exact, *torch.autograd.grad(exact, leaves, do.double())), strict=True
    )
    for a, e in pairs:
        assert relative_error(a, e) <= TOLERANCES[torch.bfloat16]
