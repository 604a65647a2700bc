"""The kernels of group_norm_silu equal float64's definition, forward and every gradient, at any shape and dtype."""

import os
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lavie.errors import KernelError
from lavie.kernels import group_norm_silu as kernels
from lavie.kernels.launch import CHIPS, Chip, recording
from lavie.ops.group_norm_silu import group_norm_silu, norm_backward, norm_forward
from lavie.testing import TOLERANCES, check_operation, relative_error
from tests.markers import requires_gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-5


def inputs(frames, images, shape=(4, 3, 5), dtype=torch.float32, batch=1, parameters=None):
    """x, weight, bias, dy. Each image has a mean and a spread of its own, so that what shares statistics shows."""
    g = torch.Generator().manual_seed(0)
    n, channels = batch * (frames + images), shape[0]
    spread, shift = torch.rand(2, n, 1, 1, 1, generator=g)
    x = torch.randn(n, *shape, generator=g) * (1 + spread) + shift
    weight, bias = torch.randn(2, channels, generator=g)
    dy = torch.randn(x.shape, generator=g)
    x, dy = (t.to(DEVICE, dtype, memory_format=torch.channels_last) for t in (x, dy))
    return [x, weight.to(DEVICE, parameters or dtype), bias.to(DEVICE, parameters or dtype), dy]


def definition(x, weight, bias, groups, frames, images, pool_images, silu):
    """In plain torch: one set of rows that share statistics after the other."""
    batch = len(x) // (frames + images)
    rows = torch.arange(len(x), device=x.device)
    clips, alone = rows[: batch * frames].view(batch, frames), rows[batch * frames :].view(batch, images)
    sets = torch.cat([clips, alone], 1).tolist() if pool_images else clips.tolist() + alone.reshape(-1, 1).tolist()
    y = torch.zeros_like(x)
    for members in filter(None, sets):
        v = x[members].unflatten(1, (groups, -1))
        centred = v - v.mean((0, 2, 3, 4), keepdim=True)
        normalised = centred / (centred.square().mean((0, 2, 3, 4), keepdim=True) + EPS).sqrt()
        y = y.index_put((torch.tensor(members, device=x.device),), normalised.flatten(1, 2))
    y = y * weight[:, None, None] + bias[:, None, None]
    return F.silu(y) if silu else y


def gradients(function, x, weight, bias, dy):
    """The output and the three gradients."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def ours(tensors, groups, frames=1, images=0, pool_images=False, silu=True):
    call = dict(groups=groups, eps=EPS, frames=frames, images=images, pool_images=pool_images, silu=silu)
    return gradients(lambda *leaves: group_norm_silu(*leaves, **call, backend="triton"), *tensors)


def check(tensors, groups, frames=1, images=0, pool_images=False, silu=True):
    call = (groups, frames, images, pool_images, silu)
    expected = gradients(lambda *leaves: definition(*leaves, *call), *(t.double() for t in tensors))
    for name, a, e, like in zip(
        ("y", "dx", "dweight", "dbias"), ours(tensors, *call), expected, (*tensors[:1], *tensors[:3]), strict=True
    ):
        assert a.dtype == like.dtype and a.shape == like.shape
        assert relative_error(a, e) <= TOLERANCES[tensors[0].dtype], name


@pytest.mark.slow
@pytest.mark.parametrize("images,pool_images", ((0, False), (2, False), (2, True)))
@pytest.mark.parametrize("frames", (1, 5, 16))
def test_sets_of_frames_and_images(frames, images, pool_images):
    check(inputs(frames, images, batch=2), 2, frames, images, pool_images)


@pytest.mark.slow
@pytest.mark.parametrize("pool_images", (False, True))
def test_images_alone(pool_images):
    check(inputs(0, 3), 2, 0, 3, pool_images)


@pytest.mark.parametrize("per_group", (4, 8, 10, 20, 30, 40, 60, 80))
def test_group_sizes(per_group):
    """Those of the three networks. Most are no powers of two, and lie across the slabs."""
    check(inputs(2, 0, (2 * per_group, 2, 3)), 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, groups",
    (((32, 1, 1), 4), ((1, 3, 5), 1), ((7, 1, 9), 1), ((6, 13, 2), 3), ((96, 5, 7), 4), ((130, 3, 3), 1)),
)
def test_odd_sizes(shape, groups):
    check(inputs(3, 1, shape), groups, 3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("pool_images", (False, True))
def test_many_blocks(monkeypatch, pool_images):
    """Clips and images of several blocks of several tiles each, the last of them ragged."""
    monkeypatch.setattr(kernels, "chip_of", lambda x: Chip((9, 0), 1, 232_448))
    monkeypatch.setattr(kernels, "PROGRAMS", 1)
    monkeypatch.setattr(kernels, "MOST_ROWS", 96)
    tensors = inputs(2, 1, (64, 11, 20))
    p = kernels.plan(tensors[0], 2, 1, False)
    assert (p.rows, p.block_s, p.pixels, p.blocks) == (96, 32, 220, 5 + 3)
    check(tensors, 2, 2, 1, pool_images)


@pytest.mark.slow
@pytest.mark.parametrize("pool_images", (False, True))
def test_more_blocks_than_a_tile_of_the_second_kernel(monkeypatch, pool_images):
    monkeypatch.setattr(kernels, "TILE", 64)
    monkeypatch.setattr(kernels, "MOST_ROWS", 2)
    tensors = inputs(2, 1, (32, 3, 7))
    assert kernels.plan(tensors[0], 2, 1, pool_images).blocks == 21 + 11  # of two rows; a tile takes two
    check(tensors, 1, 2, 1, pool_images)


@pytest.mark.slow
@pytest.mark.parametrize("silu", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_dtypes(dtype, silu):
    check(inputs(3, 1, (40, 5, 7), dtype), 2, 3, 1, False, silu)


@pytest.mark.parametrize("dtype,silu", ((torch.float32, True), (torch.float32, False), (torch.bfloat16, True)))
def test_backward_adds_another_gradient_and_gives_the_output_again(dtype, silu):
    x, weight, bias, dy = tensors = inputs(3, 1, (40, 5, 7), dtype)
    y, dx, *_ = ours(tensors, 2, 3, 1, False, silu)
    _, mean, rstd = norm_forward(x, weight, bias, 2, EPS, 3, 1, False, silu, "triton")
    both, *_, again = norm_backward(dy, x, weight, bias, mean, rstd, 2, 3, 1, False, silu, "triton", x, True)
    assert torch.equal(again, y) and again.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(both, dx.double() + x.double()) <= TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_float32_parameters_over_low_precision_activations(dtype):
    check(inputs(3, 1, dtype=dtype, parameters=torch.float32), 2, 3, 1)


def test_large_mean_does_not_cancel():
    """E[x^2] - E[x]^2 in float32 would leave two digits of a variance of 4 beside a squared mean of 4e4."""
    x, weight, bias, dy = inputs(2, 1, (6, 16, 16))
    check((2 * x + 200, weight, bias, dy), 2, 2, 1)


def test_an_outlier_in_front_does_not_cancel():
    """Where sums are shifted by the first row of a block, the block's variance must not depend on it."""
    x, weight, bias, dy = inputs(1, 0, (4, 40, 40))
    x[:, :, 0, 0] = -300.0
    x[:, :, 1:] *= 1e-2
    y = ours((x, weight, bias, dy), 2, silu=False)[0]
    expected = definition(*(t.double() for t in (x, weight, bias)), 2, 1, 0, False, False)
    assert relative_error(y, expected) <= TOLERANCES[torch.float32]


def test_extreme_values_give_no_nan():
    """silu and its slope where exp(-z) overflows or vanishes."""
    x, weight, bias, dy = inputs(1, 0)
    check((x, weight * 1e3, bias, dy), 2)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ((4, 3, 5), (4, 1, 5), (4, 3, 1), (4, 1, 1), (1, 3, 5)))
def test_other_layouts_are_converted(shape):
    x, weight, bias, dy = inputs(5, 2, shape)
    expected = ours((x, weight, bias, dy), 1, 5, 2)
    wide = torch.stack([x, x], -1)[..., 0]
    for other in (x.contiguous(), wide):
        results = ours((other, weight, bias, dy.contiguous()), 1, 5, 2)
        assert all(torch.equal(a, e) for a, e in zip(results, expected, strict=True))
        assert all(t.permute(0, 2, 3, 1).is_contiguous() for t in results[:2])


def test_expanded_gradient():
    x, weight, bias, _ = inputs(2, 1)
    check((x, weight, bias, torch.ones(1, device=DEVICE).expand(x.shape)), 2, 2, 1)


def test_part_of_a_batch():
    """Rows from the middle of a tensor, where the kernels start at an offset."""
    x, weight, bias, dy = inputs(6, 0)
    check((x[1:5], weight, bias, dy[1:5]), 2, 2)


@pytest.mark.slow
def test_results_do_not_depend_on_fresh_memory_and_repeat(poison):
    tensors = inputs(3, 1, (72, 5, 7))
    first = ours(tensors, 2, 3, 1)
    poison()
    for a, b in zip(first, ours(tensors, 2, 3, 1), strict=True):
        assert torch.equal(a, b)


def test_statistics_are_those_of_the_definition():
    x, weight, bias, _ = inputs(3, 2)
    call = (x, weight, bias, 2, EPS, 3, 2, True, True)
    for a, b in zip(*(torch.ops.lavie.group_norm_silu(*call, name) for name in ("triton", "torch")), strict=True):
        assert a.dtype == b.dtype and a.stride() == b.stride() and relative_error(a, b) <= TOLERANCES[torch.float32]


# --- what cannot run here is read from the launches that it would make


def launches(shape, groups=32, frames=1, dtype=torch.bfloat16):
    """Forward and backward at a shape (N, C, H, W) on an H100, without memory."""
    x = torch.empty(shape, dtype=dtype, device="meta", memory_format=torch.channels_last)
    weight, bias = x.new_empty(2, shape[1])
    with recording(CHIPS[9, 0]) as noted:
        y, mean, rstd = kernels.forward(x, weight, bias, groups, EPS, frames, 0, False, True)
        kernels.backward(y, x, weight, bias, mean, rstd, groups, frames, 0, False, True, None, False)
    return noted.launches


def test_one_clip_fills_the_chip():
    for launch in launches((16, 320, 40, 64), frames=16):
        assert launch.grid[0] >= (32 if "block" not in launch.kernel.__name__ else 4 * 132)


def test_programs_are_on_the_first_axis():
    noted = launches((100_000, 64, 3, 3))
    assert all(len(launch.grid) == 1 for launch in noted) and min(launch.grid[0] for launch in noted) > 65_535


@pytest.mark.slow
def test_offsets_of_blocks_are_64_bit():
    """The rows of a super-resolution batch times their channels exceed 2^31: the machine code multiplies in 64 bits."""
    code = subprocess.run(
        [sys.executable, "-c", COMPILE], env={**os.environ, "TRITON_INTERPRET": "0"}, **CAPTURED
    ).stdout
    tensors = {"_block_statistics_kernel": 1, "_apply_kernel": 2, "_block_sums_kernel": 2, "_input_gradient_kernel": 3}
    for name, ptx in (part.split("\n", 1) for part in code.split("=== ")[1:]):
        if name in tensors:
            assert re.search(r"mul\.(wide\.s32|lo\.s64)\s+%rd\d+, %(r|rd)\d+, %(r|rd)\d+;", ptx), name


CAPTURED = dict(check=True, capture_output=True, text=True)
COMPILE = """
import torch
from lavie.kernels import cases
from lavie.kernels.launch import CHIPS, recording
from lavie.kernels.resources import compile_launch
with recording(CHIPS[9, 0]) as noted:
    cases._group_norm_silu(torch.bfloat16, 512, (320, 512), 32, 0, False, True)
for launch in noted.launches:
    print("===", launch.kernel.__name__)
    print(compile_launch(launch, CHIPS[9, 0]).asm["ptx"])
"""


@requires_gpu
def test_a_tensor_beyond_32_bits():
    """Its last image is that image by itself, forward and backward."""
    x = torch.randn(27, 320, 512, 512, device=DEVICE, dtype=torch.bfloat16).permute(0, 3, 1, 2)
    weight, bias = torch.randn(2, 512, device=DEVICE)
    assert x.numel() > 2**31
    check_last = [t[-1:] for t in ours((x, weight, bias, x), 32)[:2]]
    for a, e in zip(check_last, ours((x[-1:], weight, bias, x[-1:]), 32), strict=False):
        assert relative_error(a, e) <= TOLERANCES[torch.bfloat16]


@requires_gpu
def test_more_than_65535_programs():
    check(inputs(1, 0, (4, 1, 2), batch=70_000), 2)


# --- as a part of torch


@pytest.mark.slow
def test_opcheck():
    x, weight, bias, dy = inputs(1, 0)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    forward = (*leaves, 1, EPS, 1, 0, False, True, "triton")
    _, mean, rstd = torch.ops.lavie.group_norm_silu(*forward)
    backward = (*tuple(t.detach() for t in (dy, *leaves, mean, rstd)), 1, 1, 0, False, True, "triton", x.detach(), True)
    check_operation("group_norm_silu", forward, "group_norm_silu_backward", backward)


@pytest.mark.slow
def test_compiles_without_graph_breaks_and_checkpoints():
    tensors = inputs(2, 1)
    call = dict(groups=2, eps=EPS, frames=2, images=1, backend="triton")
    compiled = torch.compile(lambda x, w, b: group_norm_silu(x, w, b, **call), fullgraph=True, backend="aot_eager")

    def checkpointed(x, w, b):
        return torch.utils.checkpoint.checkpoint(group_norm_silu, x, w, b, use_reentrant=False, **call)

    for function in (compiled, checkpointed):
        for a, b in zip(gradients(function, *tensors), ours(tensors, 2, 2, 1), strict=True):
            assert torch.equal(a, b) and a.stride() == b.stride()


@pytest.mark.parametrize(
    "change, groups, reason",
    (
        (dict(dtype=torch.float64), 2, "x is torch.float64, wanted float32, bfloat16 or float16"),
        (dict(parameters=torch.float64), 2, "weight is torch.float64"),
        (dict(shape=(4, 0, 3)), 2, r"x of shape \(1, 4, 0, 3\) is empty"),
        (dict(shape=(4096, 1, 1)), 1, "1 groups of 4096 channels"),
    ),
)
def test_what_is_unsupported_is_said(change, groups, reason):
    x, weight, bias, _ = inputs(1, 0, **change)
    with pytest.raises(KernelError, match=reason):
        group_norm_silu(x, weight, bias, groups=groups, eps=EPS, backend="triton")


def test_parameters_that_are_no_contiguous_row_are_refused():
    x, weight, _bias, _ = inputs(1, 0)
    for wrong in (weight[:3], weight[:1].expand(4)):
        with pytest.raises(KernelError, match=r"bias of shape .* is not 4 contiguous numbers"):
            group_norm_silu(x, weight, wrong, groups=2, eps=EPS, backend="triton")


def test_cost_counts_tensors():
    x, weight, bias, _ = inputs(2, 0, (8, 3, 5), torch.bfloat16)
    table = 2 * 2 * 4 * 4  # mean and rstd of 2 images, 4 groups, 4 bytes
    cost = kernels.cost(x, weight, bias, 4)
    assert cost.forward_bytes == 3 * x.nbytes + 2 * weight.nbytes + table
    assert cost.backward_bytes == 5 * x.nbytes + 4 * weight.nbytes + table
    with FlopCounterMode(display=False) as counter:
        group_norm_silu(x.requires_grad_(), weight, bias, groups=4, eps=EPS, frames=2, backend="torch").sum().backward()
    assert (cost.forward_flops, cost.backward_flops) == (0, 0) and counter.get_total_flops() == 0


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    frames=st.integers(1, 3),
    images=st.integers(0, 1),
    groups=st.integers(1, 2),
    per_group=st.integers(2, 40),
    size=st.tuples(st.integers(2, 6), st.integers(1, 7)),
    pool_images=st.booleans(),
    silu=st.booleans(),
)
def test_any_shape(frames, images, groups, per_group, size, pool_images, silu):
    check(inputs(frames, images, (groups * per_group, *size)), groups, frames, images, pool_images, silu)
