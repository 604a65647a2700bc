"""pseudo3d_conv equals nn.Conv3d, the block equals its modules, with every gradient, and both keep channels last."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lavie.ops.group_norm_silu import group_norm_silu
from lavie.ops.pseudo3d_conv import pseudo3d_block, pseudo3d_conv
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


@pytest.mark.slow
@pytest.mark.parametrize("epilogue", ("", "bias", "bias time", "bias residual", "time residual"))
@pytest.mark.parametrize("frames", (1, 2, 5, 16))
@pytest.mark.parametrize("taps", (3, 5))
def test_equals_the_definition(taps, frames, epilogue):
    check(inputs(taps, frames, epilogue=epilogue))


@pytest.mark.slow
@pytest.mark.parametrize("channels", ((1, 1), (1, 5), (24, 40)))
@pytest.mark.parametrize("batch,positions", ((1, 1), (3, 130)))
def test_odd_sizes(channels, batch, positions):
    check(inputs(3, 4, positions, channels, batch=batch))


@pytest.mark.slow
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
    with pytest.raises(ValueError, match=f"(x|weight|bias|time|residual) .*{next(iter(wrong))}|^{next(iter(wrong))}"):
        pseudo3d_conv(x, **tensors)


@pytest.mark.slow
def test_results_do_not_depend_on_fresh_memory_and_repeat(poison):
    tensors = inputs(5, 3)
    first = run(conv, *tensors)
    poison()
    for a, b in zip(first, run(conv, *tensors), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_opcheck():
    x, weight, bias, time, residual, dy = inputs(3, 4)
    leaves = [t.requires_grad_() for t in (x, weight, bias, time, residual)]
    backward = (dy, x.detach(), weight.detach(), "torch")
    check_operation("pseudo3d_conv", (*leaves, "torch"), "pseudo3d_conv_weight_gradient", backward)


def test_compiles_without_graph_breaks():
    tensors = inputs(3, 4)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, *tensors), run(conv, *tensors), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


# The residual block

BEFORE_TRANSFORMER, AFTER_LEVEL = (3, 3), (5, 3)
"""The taps of the two convolutions, in each of the two blocks of the super-resolution network."""


def block_inputs(taps, time=True, frames=3, channels=8, middle=12, dtype=torch.float32):
    """x, norm1, conv1, norm2, conv2 (weight and bias each), time or None, and a gradient of the output."""
    g = torch.Generator().manual_seed(0)

    def draw(*size, scale=1.0):
        return (torch.randn(size, generator=g) * scale).to(dtype)

    def images():
        return draw(2 * frames, channels, 4, 5).contiguous(memory_format=torch.channels_last)

    tensors = [images()]
    for k, (ins, outs) in zip(taps, ((channels, middle), (middle, channels)), strict=True):
        tensors += [draw(ins), draw(ins), draw(outs, ins, k, 1, 1, scale=0.2), draw(outs)]
    return [*tensors, draw(2, middle) if time else None, images()]


def block(frames=3):
    def function(x, *tensors):
        norm1, conv1, norm2, conv2 = (tensors[i : i + 2] for i in range(0, 8, 2))
        settings = dict(frames=frames, groups=4, eps=EPS)
        return pseudo3d_block(x, norm1, conv1, norm2, conv2, time=tensors[8], **settings)

    return function


def block_definition(frames=3):
    """Modules' functions on (B, C, F, H, W), the released network's layout."""

    def norm(x, weight, bias):
        return F.silu(F.group_norm(x, 4, weight, bias, EPS))

    def convolve(x, weight, bias):
        return F.conv3d(x, weight, bias, padding=(weight.shape[2] // 2, 0, 0))

    def function(x, w1, b1, k1, c1, w2, b2, k2, c2, time):
        v = x.unflatten(0, (-1, frames)).transpose(1, 2)
        h = convolve(norm(v, w1, b1), k1, c1)
        h = h if time is None else h + time[:, :, None, None, None]
        return (v + convolve(norm(h, w2, b2), k2, c2)).transpose(1, 2).flatten(0, 1)

    return function


@pytest.mark.parametrize("time", (True, False))
@pytest.mark.parametrize("taps", (BEFORE_TRANSFORMER, AFTER_LEVEL))
def test_block_equals_its_modules(taps, time):
    check(block_inputs(taps, time), block(), block_definition())


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16))
def test_block_dtypes(dtype):
    tensors = block_inputs(BEFORE_TRANSFORMER, dtype=dtype)
    expected = run(block_definition(), *(t.double() for t in tensors))
    for i, (a, e) in enumerate(zip(run(block(), *tensors), expected, strict=True)):  # six operations deep
        assert a.dtype == dtype and relative_error(a, e) <= 6**0.5 * TOLERANCES[dtype], i


@pytest.mark.parametrize("taps", (BEFORE_TRANSFORMER, AFTER_LEVEL))
def test_block_keeps_two_activations_and_separate_operations_four(taps):
    tensors = block_inputs(taps, time=False, middle=8)
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
            clips = x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, 3))
            y = pseudo3d_conv(clips, weight, bias)
            return y.flatten(0, 1).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

        h = convolve(group_norm_silu(x, w1, b1, groups=4, eps=EPS, frames=3), k1, c1)
        return x + convolve(group_norm_silu(h, w2, b2, groups=4, eps=EPS, frames=3), k2, c2)

    assert relative_error(block()(*leaves).detach(), separate(*leaves).detach()) < 1e-6
    assert (kept(block()), kept(separate)) == (2, 4)


def test_block_with_frozen_convolutions():
    tensors = block_inputs(BEFORE_TRANSFORMER)
    expected = run(block(), *tensors)
    *leaves, dy = [t.detach() for t in tensors]
    for i in (0, 1, 7, 9):  # x, a norm, one convolution of two, time
        leaves[i].requires_grad_()
    got = torch.autograd.grad(block()(*leaves), [leaves[i] for i in (0, 1, 7, 9)], dy)
    for a, i in zip(got, (0, 1, 7, 9), strict=True):
        assert torch.equal(a, expected[1 + i])


@pytest.mark.parametrize("taps", (BEFORE_TRANSFORMER, AFTER_LEVEL))
def test_block_opcheck_and_compile(taps):
    tensors = block_inputs(taps)
    leaves = [t.detach().requires_grad_() for t in tensors[:-1]]
    torch.library.opcheck(torch.ops.lavie.pseudo3d_block.default, (*leaves, 3, 4, EPS, "torch"))
    compiled = torch.compile(block(), fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, *tensors), run(block(), *tensors), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


def test_block_does_not_depend_on_fresh_memory_and_repeats(poison):
    tensors = block_inputs(BEFORE_TRANSFORMER)
    first = run(block(), *tensors)
    poison()
    for a, b in zip(first, run(block(), *tensors), strict=True):
        assert torch.equal(a, b)
