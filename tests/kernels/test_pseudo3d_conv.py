"""The Triton temporal convolution equals conv3d in float64, with every gradient, whatever the sizes and strides."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lavie.errors import KernelError
from lavie.kernels import pseudo3d_conv as kernels
from lavie.kernels.launch import CHIPS, recording
from lavie.ops import pseudo3d_conv as op
from lavie.ops.pseudo3d_conv import pseudo3d_block, pseudo3d_conv
from lavie.testing import TOLERANCES, check_operation, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EVERYTHING = "bias time residual"


def definition(x, weight, bias=None, time=None, residual=None):
    taps = weight.shape[2]
    y = F.conv3d(x.permute(0, 3, 1, 2)[..., None], weight[..., None, None], bias, padding=(taps // 2, 0, 0))
    y = y.squeeze(-1).permute(0, 2, 3, 1)
    y = y if time is None else y + time[:, None, None]
    return y if residual is None else y + residual


def triton(x, weight, bias=None, time=None, residual=None):
    return pseudo3d_conv(x, weight, bias, time=time, residual=residual, backend="triton")


def inputs(taps, frames, positions=7, channels=(6, 10), added=EVERYTHING, dtype=torch.float32, batch=2):
    """x, weight, and bias, time and residual or None; and a gradient of the output."""
    g = torch.Generator().manual_seed(0)

    def draw(*size, scale=1.0):
        return (torch.randn(size, generator=g) * scale).to(DEVICE, dtype)

    ins, outs = channels
    x, dy = draw(batch, frames, positions, ins), draw(batch, frames, positions, outs)
    weight = draw(outs, ins, taps, scale=(ins * taps) ** -0.5)
    extra = {"bias": draw(outs), "time": draw(batch, outs), "residual": draw(batch, frames, positions, outs)}
    return [x, weight, *(t if name in added else None for name, t in extra.items()), dy]


def run(function, *tensors):
    """The output and the gradient of every tensor."""
    *tensors, dy = tensors
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], dy)]


def check(tensors, function=triton, exact=definition, depth=1):
    dtype = tensors[0].dtype
    actual = run(function, *tensors)
    expected = run(exact, *(t if t is None else t.double() for t in tensors))
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == dtype
        assert relative_error(a, e) <= TOLERANCES[dtype] * depth**0.5, i
    return actual


@pytest.mark.slow
@pytest.mark.parametrize("added", ("", EVERYTHING))
@pytest.mark.parametrize("frames", (1, 2, 5, 8, 16))
@pytest.mark.parametrize("taps", (3, 5))
def test_equals_the_definition(taps, frames, added):
    y = check(inputs(taps, frames, added=added))[0]
    assert y.is_contiguous()


@pytest.mark.parametrize("added", ("bias", "time", "residual", "bias residual"))
def test_what_is_added(added):
    check(inputs(3, 3, added=added))


@pytest.mark.slow
@pytest.mark.parametrize("channels", ((1, 1), (40, 24), (130, 72), (64, 320)))
@pytest.mark.parametrize("positions", (1, 65))
def test_sizes_that_are_no_multiple_of_a_tile(positions, channels):
    """65 positions take tall tiles, of 128 columns from 72 channels on; 320 channels end in half a tile."""
    check(inputs(3, 2, positions, channels, batch=1, dtype=torch.bfloat16))


@pytest.mark.slow
def test_the_largest_tile_and_its_epilogue_in_parts():
    tensors = inputs(3, 2, 65, (512, 256), batch=1, dtype=torch.bfloat16)
    assert kernels.conv_tile(tensors[0], 256, 3) == (128, 256, 64, 4, 8, 4)
    check(tensors)


@pytest.mark.parametrize("positions", (64, 128))
def test_whole_tiles_without_masks(positions):
    check(inputs(5, 3, positions, (64, 64), dtype=torch.float16))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("taps", (3, 5))
def test_dtypes(taps, dtype):
    check(inputs(taps, 5, 33, (24, 40), dtype=dtype))


def test_more_taps_than_any_network_has():
    check(inputs(7, 4))


@pytest.mark.slow
@pytest.mark.parametrize("positions", (7, 65))
def test_strided_views_amid_nans(positions):
    """Frames, positions and channels of larger tensors; what lies around them is never used."""
    tensors = inputs(5, 3, positions, dtype=torch.bfloat16)

    def inside(t):
        around = torch.full([size + 3 for size in t.shape], torch.nan, dtype=t.dtype, device=DEVICE)
        return around[1:-2, 2:-1, 1:-2, 2:-1].copy_(t)

    strided = [inside(t) if t.ndim == 4 else t for t in tensors]
    assert not strided[0].is_contiguous()
    for a, b in zip(check(strided), run(triton, *tensors), strict=True):
        assert torch.equal(a, b)


def test_positions_outermost_and_a_gradient_without_memory():
    x, weight, bias, time, residual, _ = inputs(3, 4)
    x = x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    check([x, weight, bias, time, residual, torch.ones((), device=DEVICE).expand_as(residual)])


def test_float32_parameters_over_low_precision_activations():
    x, weight, bias, time, residual, dy = inputs(3, 4, dtype=torch.bfloat16)
    tensors = [x, weight.float(), bias.float(), time.float(), residual, dy]
    expected = run(definition, *(t.double() for t in tensors))
    dtypes = [x.dtype] * 2 + [torch.float32] * 3 + [x.dtype]
    for a, e, dtype in zip(run(triton, *tensors), expected, dtypes, strict=True):
        assert a.dtype == dtype and relative_error(a, e) <= TOLERANCES[x.dtype]


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    taps=st.sampled_from((1, 3, 5)),
    batch=st.integers(1, 3),
    frames=st.integers(1, 6),
    positions=st.integers(1, 70),
    channels=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    added=st.sampled_from(("", "bias", "time residual", EVERYTHING)),
)
def test_any_sizes(taps, batch, frames, positions, channels, added):
    check(inputs(taps, frames, positions, channels, added, batch=batch))


@pytest.mark.parametrize("size", ((0, 3, 7, 6), (2, 3, 0, 6)))
def test_nothing_to_convolve(size):
    x, weight, bias, *_ = inputs(3, 3)
    y = triton(x.new_zeros(size).requires_grad_(), weight.requires_grad_(), bias)
    assert y.shape == (*size[:3], 10)
    y.sum().backward()
    assert not weight.grad.any()


# The block


@pytest.mark.slow
@pytest.mark.parametrize("taps", ((3, 3), (5, 3)))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_block_equals_its_modules_in_float64(taps, dtype):
    g = torch.Generator().manual_seed(0)

    def draw(*size, scale=1.0):
        return (torch.randn(size, generator=g) * scale).to(DEVICE, dtype)

    def images():
        return draw(6, 8, 3, 5).contiguous(memory_format=torch.channels_last)

    convs = [t for k in taps for t in (draw(8), draw(8), draw(8, 8, k, 1, 1, scale=0.2), draw(8))]

    def block(x, *tensors):
        pairs = (tensors[i : i + 2] for i in range(0, 8, 2))
        return pseudo3d_block(x, *pairs, time=tensors[8], frames=3, groups=4, eps=1e-6, backend="triton")

    def modules(x, w1, b1, k1, c1, w2, b2, k2, c2, time):
        def convolve(x, weight, bias):
            return F.conv3d(x, weight, bias, padding=(weight.shape[2] // 2, 0, 0))

        v = x.unflatten(0, (2, 3)).transpose(1, 2)
        h = convolve(F.silu(F.group_norm(v, 4, w1, b1, 1e-6)), k1, c1) + time[:, :, None, None, None]
        return (v + convolve(F.silu(F.group_norm(h, 4, w2, b2, 1e-6)), k2, c2)).transpose(1, 2).flatten(0, 1)

    tensors = [images(), *convs, draw(2, 8), images()]
    first = check(tensors, block, modules, depth=6)
    for a, b in zip(first, run(block, *tensors), strict=True):
        assert torch.equal(a, b)


# How it runs


@pytest.mark.slow
def test_results_do_not_depend_on_fresh_memory_and_repeat(poison):
    tensors = inputs(5, 3, 65, (24, 40))
    first = run(triton, *tensors)
    poison()
    for a, b in zip(first, run(triton, *tensors), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("axis", (0, 1, 2))
def test_offsets_beyond_31_bits(axis):
    """Neighbours along an axis lie more than 2 ** 31 elements apart, in memory that is hardly touched."""
    small = inputs(3, 2, 2, dtype=torch.float16)

    def apart(t):
        distance = 2**31 + 16
        stride = [32, 64, 128, 1]
        stride[axis] = distance
        return torch.empty(distance + 512, dtype=t.dtype, device=DEVICE).as_strided(t.shape, stride).copy_(t)

    x, weight, bias, time, residual, dy = small
    large = [apart(x), weight, bias, time, residual, apart(dy)]
    expected = run(triton, *small)
    for a, b in zip(run(triton, *large), expected, strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert torch.equal(triton(x, weight, bias, time, apart(residual)), expected[0])


def test_more_programs_than_a_narrow_grid_axis_holds():
    x = torch.empty(4, 8, 320 * 512, 256, dtype=torch.bfloat16, device="meta")
    with recording(CHIPS[9, 0]) as noted:
        kernels.forward(x, torch.empty(256, 256, 3, device="meta"), None, None, None)
        kernels.weight_gradient(x, x, 3)
    assert x.numel() > 2**30
    assert all(len(launch.grid) == 1 for launch in noted.launches)
    assert noted.launches[0].grid[0] == 4 * 8 * 1280 * 2 > 65535


def test_splits_fill_the_chip():
    """Few tiles are split until most of the last wave works; many are left alone."""
    for tiles, steps in ((3, 20480), (24, 20480), (96, 320), (160, 10240)):
        splits = kernels.choose_splits(tiles, steps, 132)
        assert tiles * splits / (-(-tiles * splits // 132) * 132) > 0.9
        assert steps / splits > 16
    assert kernels.choose_splits(1000, 4, 132) == 1


@pytest.mark.slow
def test_opcheck():
    x, weight, bias, time, residual, dy = inputs(3, 2)
    leaves = [t.requires_grad_() for t in (x, weight, bias, time, residual)]
    backward = (dy, x.detach(), weight.detach(), "triton")
    check_operation("pseudo3d_conv", (*leaves, "triton"), "pseudo3d_conv_weight_gradient", backward)


@pytest.mark.slow
def test_compile_and_checkpoint():
    tensors = inputs(3, 2)
    compiled = torch.compile(triton, fullgraph=True, backend="aot_eager")

    def recomputed(*leaves):
        return checkpoint(triton, *leaves, use_reentrant=False)

    expected = run(triton, *tensors)
    for function in (compiled, recomputed):
        for a, b in zip(run(function, *tensors), expected, strict=True):
            assert torch.equal(a, b) and a.stride() == b.stride()


def test_float64_is_left_to_pytorch():
    tensors = inputs(3, 2, dtype=torch.float64)
    with pytest.raises(KernelError, match="float64, wanted float32, bfloat16 or float16"):
        triton(*tensors[:5])


@pytest.mark.parametrize("added", ("", EVERYTHING))
@pytest.mark.parametrize("taps,frames", ((3, 8), (5, 8), (5, 1), (5, 2)))
def test_cost(taps, frames, added):
    x, weight, bias, time, residual, dy = inputs(taps, frames, added=added, dtype=torch.bfloat16)
    cost = kernels.cost(x, weight, bias, time, residual)
    with FlopCounterMode(display=False) as forward:
        y = op.convolve(x, weight)
    with FlopCounterMode(display=False) as backward:
        op.convolve(dy, weight.transpose(0, 1).flip(2))
        op.correlate(dy, x, taps)
    assert (cost.forward_flops, cost.backward_flops) == (forward.get_total_flops(), backward.get_total_flops())
    given = [t for t in (x, weight, bias, time, residual) if t is not None]
    assert cost.forward_bytes == sum(t.nbytes for t in (*given, y))
    written = [t for t in (x, weight, bias, time) if t is not None]
    assert cost.backward_bytes == sum(t.nbytes for t in (dy, x, weight, *written))
