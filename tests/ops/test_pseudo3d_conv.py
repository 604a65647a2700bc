"""pseudo3d_conv equals nn.Conv3d, the block equals its modules, with every gradient, and both keep channels last."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lavie.ops.group_norm_silu import group_norm_silu
from lavie.ops.pseudo3d_conv import norm_statistics, pseudo3d_block, pseudo3d_conv, pseudo3d_conv_with_statistics
from lavie.testing import TOLERANCES, check_operation, relative_error

EPS = 1e-6


def definition(x, weight, bias=None, time=None, residual=None):
    weight = weight.flatten(2)[..., None, None]
    y = F.conv3d(x.permute(0, 3, 1, 2)[..., None], weight, bias, padding=(weight.shape[2] // 2, 0, 0))
    y = y.squeeze(-1).permute(0, 2, 3, 1)
    y = y if time is None else y + time[:, None, None]
    return y if residual is None else y + residual


def inputs(taps, frames, positions=7, channels=(6, 10), epilogue="bias time residual", dtype=torch.float32, batch=2):
    """x, weight, and bias, time and residual or None; and a gradient of the output."""
    g = torch.Generator().manual_seed(0)

    def draw(*size, scale=1.0):
        return (torch.randn(size, generator=g) * scale).to(dtype)

    ins, outs = channels
    x, dy = draw(batch, frames, positions, ins), draw(batch, frames, positions, outs)
    weight = draw(outs, ins, taps, scale=(ins * taps) ** -0.5)
    added = {"bias": draw(outs), "time": draw(batch, outs), "residual": draw(batch, frames, positions, outs)}
    return [x, weight, *(t if name in epilogue else None for name, t in added.items()), dy]


def run(function, *tensors):
    """The output and the gradient of every tensor."""
    *tensors, dy = tensors
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], dy)]


def conv(x, weight, bias=None, time=None, residual=None):
    return pseudo3d_conv(x, weight, bias, time=time, residual=residual)


def check(tensors, function=conv, exact=definition):
    dtype = tensors[0].dtype
    expected = run(exact, *(t if t is None else t.double() for t in tensors))
    for i, (a, e) in enumerate(zip(run(function, *tensors), expected, strict=True)):
        assert a.dtype == dtype
        assert relative_error(a, e) <= TOLERANCES[dtype], i


@pytest.mark.parametrize("epilogue", ("", "bias", "bias time", "bias residual", "time residual"))
@pytest.mark.parametrize("frames", (1, 2, 5, 16))
@pytest.mark.parametrize("taps", (3, 5))
def test_equals_the_definition(taps, frames, epilogue):
    check(inputs(taps, frames, epilogue=epilogue))


@pytest.mark.parametrize("channels", ((1, 1), (1, 5), (24, 40)))
@pytest.mark.parametrize("batch,positions", ((1, 1), (3, 130)))
def test_odd_sizes(channels, batch, positions):
    check(inputs(3, 4, positions, channels, batch=batch))


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16))
def test_dtypes(dtype):
    check(inputs(5, 8, 33, (24, 40), dtype=dtype))


def test_the_weight_of_a_module():
    module = nn.Conv3d(6, 10, (3, 1, 1), padding=(1, 0, 0))
    x, *_ = inputs(3, 5)
    y = pseudo3d_conv(x, module.weight, module.bias)
    expected = module(x.permute(0, 3, 1, 2)[..., None]).squeeze(-1).permute(0, 2, 3, 1)
    assert relative_error(y.detach(), expected.detach()) < 1e-6
    y.sum().backward()
    assert module.weight.grad.shape == module.weight.shape


def test_strided_inputs_and_float32_parameters():
    x, weight, bias, time, residual, dy = inputs(3, 4, dtype=torch.bfloat16)
    wide = torch.full((2, 6, 9, 11), torch.nan, dtype=x.dtype)
    view = wide[:, 1:5, 2:9, 3:9].copy_(x)
    tensors = [view, weight.float(), bias.float(), time.float(), residual, dy]
    actual = run(conv, *tensors)
    expected = run(definition, *(t.double() for t in tensors))
    for a, e, dtype in zip(actual, expected, [x.dtype] * 2 + [torch.float32] * 3 + [x.dtype], strict=True):
        assert a.dtype == dtype and relative_error(a, e) <= TOLERANCES[x.dtype]


@pytest.mark.parametrize(
    "wrong",
    (
        {"weight": torch.ones(10, 6, 2)},
        {"weight": torch.ones(10, 6, 3, 3, 3)},
        {"weight": torch.ones(10, 7, 3)},
        {"bias": torch.ones(9)},
        {"time": torch.ones(1, 10)},
        {"residual": torch.ones(2, 4, 7, 6)},
    ),
)
def test_wrong_shapes_are_named(wrong):
    x, weight, bias, time, residual, _ = inputs(3, 4)
    tensors = {"weight": weight, "bias": bias, "time": time, "residual": residual, **wrong}
    with pytest.raises(ValueError, match=f"(x|weight|bias|time|residual) .*{tuple(wrong)[0]}|^{tuple(wrong)[0]}"):
        pseudo3d_conv(x, **tensors)


@pytest.mark.parametrize("pooled", (True, False))
@pytest.mark.parametrize("positions", (1, 128, 300))
def test_statistics_are_those_of_the_next_norm(positions, pooled):
    x, weight, bias, time, _, _ = inputs(3, 3, positions, (6, 12), dtype=torch.float64)
    y, statistics = pseudo3d_conv_with_statistics(x, weight, bias + 1000, time=time)
    assert torch.equal(y, pseudo3d_conv(x, weight, bias + 1000, time=time))
    assert statistics.shape == (2, 2, 3, (positions + 127) // 128, 12) and not statistics.requires_grad
    mean, rstd = norm_statistics(statistics, positions, groups=4, eps=EPS, pooled=pooled)
    images = y.flatten(0, 1).permute(0, 2, 1)[..., None]
    settings = (4, EPS, 3 if pooled else 1, 0, False, True, "torch")
    _, *expected = torch.ops.lavie.group_norm_silu(images, torch.ones(12), torch.zeros(12), *settings)
    for a, e in zip((mean, rstd), expected, strict=True):
        assert a.shape == e.shape and relative_error(a, e) < 1e-9


def test_results_do_not_depend_on_fresh_memory_and_repeat(poison):
    tensors = inputs(5, 3)
    first = run(conv, *tensors)
    poison()
    for a, b in zip(first, run(conv, *tensors), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("statistics", (False, True))
def test_opcheck(statistics):
    x, weight, bias, time, residual, dy = inputs(3, 4)
    leaves = [t.requires_grad_() for t in (x, weight, bias, time, residual)]
    backward = (dy, x.detach(), weight.detach(), "torch")
    check_operation("pseudo3d_conv", (*leaves, statistics, "torch"), "pseudo3d_conv_weight_gradient", backward)


def test_compiles_without_graph_breaks():
    tensors = inputs(3, 4)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, *tensors), run(conv, *tensors), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


# The residual block

KERNELS = {"spatial": (3, 3), "temporal 3": (3, 1, 1), "temporal 5": (5, 1, 1)}
PSEUDO_3D, TEMPORAL, PLAIN = ("spatial", "temporal 3"), ("temporal 5", "temporal 3"), ("spatial", "spatial")


def block_inputs(kinds, time=True, frames=3, channels=8, middle=12, dtype=torch.float32):
    """x, norm1, conv1, norm2, conv2 (weight and bias each), time or None, and a gradient of the output."""
    g = torch.Generator().manual_seed(0)

    def draw(*size, scale=1.0):
        return (torch.randn(size, generator=g) * scale).to(dtype)

    def images():
        return draw(2 * frames, channels, 4, 5).contiguous(memory_format=torch.channels_last)

    tensors = [images()]
    for kind, (ins, outs) in zip(kinds, ((channels, middle), (middle, channels)), strict=True):
        tensors += [draw(ins), draw(ins), draw(outs, ins, *KERNELS[kind], scale=0.2), draw(outs)]
    return [*tensors, draw(2, middle) if time else None, images()]


def block(frames=3, pooled=True):
    def function(x, *tensors):
        norm1, conv1, norm2, conv2 = (tensors[i : i + 2] for i in range(0, 8, 2))
        settings = dict(frames=frames, groups=4, eps=EPS, pooled=pooled)
        return pseudo3d_block(x, norm1, conv1, norm2, conv2, time=tensors[8], **settings)

    return function


def block_definition(frames=3, pooled=True):
    """Modules' functions on (B, C, F, H, W), the released network's layout."""

    def norm(x, weight, bias):
        if pooled:
            return F.silu(F.group_norm(x, 4, weight, bias, EPS))
        return F.silu(F.group_norm(x.transpose(1, 2).flatten(0, 1), 4, weight, bias, EPS)).unflatten(
            0, (-1, frames)
        ).transpose(1, 2)  # fmt: skip

    def convolve(x, weight, bias):
        weight = weight if weight.ndim == 5 else weight[:, :, None]
        return F.conv3d(x, weight, bias, padding=[size // 2 for size in weight.shape[2:]])

    def function(x, w1, b1, k1, c1, w2, b2, k2, c2, time):
        v = x.unflatten(0, (-1, frames)).transpose(1, 2)
        h = convolve(norm(v, w1, b1), k1, c1)
        h = h if time is None else h + time[:, :, None, None, None]
        return (v + convolve(norm(h, w2, b2), k2, c2)).transpose(1, 2).flatten(0, 1)

    return function


@pytest.mark.parametrize("time", (True, False))
@pytest.mark.parametrize("pooled", (True, False))
@pytest.mark.parametrize("kinds", (PSEUDO_3D, TEMPORAL, PLAIN))
def test_block_equals_its_modules(kinds, pooled, time):
    check(block_inputs(kinds, time), block(pooled=pooled), block_definition(pooled=pooled))


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16))
def test_block_dtypes(dtype):
    tensors = block_inputs(PSEUDO_3D, dtype=dtype)
    expected = run(block_definition(), *(t.double() for t in tensors))
    for i, (a, e) in enumerate(zip(run(block(), *tensors), expected, strict=True)):  # six operations deep
        assert a.dtype == dtype and relative_error(a, e) <= 6**0.5 * TOLERANCES[dtype], i


@pytest.mark.parametrize("kinds", (PSEUDO_3D, TEMPORAL))
def test_block_keeps_two_activations_and_separate_operations_four(kinds):
    tensors = block_inputs(kinds, time=False, middle=8)
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors[:-1]]

    def kept(function):
        memory = {}

        def pack(t):
            if t.shape.numel() == leaves[0].numel():
                memory[t.untyped_storage().data_ptr()] = t
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = function(*leaves)
        assert y.is_contiguous(memory_format=torch.channels_last)
        return len(memory)

    def separate(x, w1, b1, k1, c1, w2, b2, k2, c2, _):
        def convolve(x, weight, bias):
            if weight.ndim == 4:
                return F.conv2d(x, weight, bias, padding=1)
            clips = x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, 3))
            y = pseudo3d_conv(clips, weight, bias)
            return y.flatten(0, 1).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

        h = convolve(group_norm_silu(x, w1, b1, groups=4, eps=EPS, frames=3), k1, c1)
        return x + convolve(group_norm_silu(h, w2, b2, groups=4, eps=EPS, frames=3), k2, c2)

    assert relative_error(block()(*leaves).detach(), separate(*leaves).detach()) < 1e-6
    assert (kept(block()), kept(separate)) == (2, 4)


def test_block_with_frozen_convolutions():
    tensors = block_inputs(PSEUDO_3D)
    expected = run(block(), *tensors)
    *leaves, dy = [t.detach() for t in tensors]
    for i in (0, 1, 7, 9):  # x, a norm, one convolution of two, time
        leaves[i].requires_grad_()
    got = torch.autograd.grad(block()(*leaves), [leaves[i] for i in (0, 1, 7, 9)], dy)
    for a, i in zip(got, (0, 1, 7, 9), strict=True):
        assert torch.equal(a, expected[1 + i])


@pytest.mark.parametrize("kinds", (PSEUDO_3D, TEMPORAL))
def test_block_opcheck_and_compile(kinds):
    tensors = block_inputs(kinds)
    leaves = [t.detach().requires_grad_() for t in tensors[:-1]]
    torch.library.opcheck(torch.ops.lavie.pseudo3d_block.default, (*leaves, 3, 4, EPS, 3, "torch"))
    compiled = torch.compile(block(), fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, *tensors), run(block(), *tensors), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


def test_block_does_not_depend_on_fresh_memory_and_repeats(poison):
    tensors = block_inputs(PSEUDO_3D)
    first = run(block(), *tensors)
    poison()
    for a, b in zip(first, run(block(), *tensors), strict=True):
        assert torch.equal(a, b)
