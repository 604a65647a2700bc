"""group_norm_silu equals torch's over the frames it pools, with every gradient, and keeps channels last."""

import pytest
import torch
import torch.nn.functional as F

from lavie.ops.group_norm_silu import group_norm_silu
from lavie.testing import TOLERANCES, check_operation, relative_error

EPS = 1e-5


def definition(x, weight, bias, groups, frames, images, pool_images, silu):
    """torch's group_norm of each clip as one 5-D tensor, of each image by itself or as another frame of its clip."""
    batch = len(x) // (frames + images)
    clips, alone = (x[: batch * frames], x[batch * frames :])
    clips = clips.unflatten(0, (batch, frames)) if frames else None
    if pool_images:
        clips = torch.cat([clips, alone.unflatten(0, (batch, images))], 1)
    parts = []
    if frames:
        y = F.group_norm(clips.transpose(1, 2), groups, weight, bias, EPS).transpose(1, 2)
        parts = [part.flatten(0, 1) for part in y.split([frames, y.shape[1] - frames], 1)]
    if images and not pool_images:
        parts.append(F.group_norm(alone, groups, weight, bias, EPS))
    y = torch.cat(parts)
    return F.silu(y) if silu else y


def inputs(frames, images, shape=(12, 3, 5), dtype=torch.float32, batch=2, mean=0.5):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch * (frames + images), *shape, generator=g) * 2 + mean
    weight, bias = torch.randn(2, shape[0], generator=g)
    dy = torch.randn(x.shape, generator=g)
    return [
        x.to(dtype, memory_format=torch.channels_last),
        weight.to(dtype),
        bias.to(dtype),
        dy.to(dtype, memory_format=torch.channels_last),
    ]


def run(function, x, weight, bias, dy):
    """The output and the three gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def ours(tensors, groups, frames, images, pool_images, silu):
    settings = dict(groups=groups, eps=EPS, frames=frames, images=images, pool_images=pool_images, silu=silu)
    return run(lambda x, w, b: group_norm_silu(x, w, b, **settings), *tensors)


def expected(tensors, groups, frames, images, pool_images, silu):
    return run(
        lambda x, w, b: definition(x, w, b, groups, frames, images, pool_images, silu), *[t.double() for t in tensors]
    )


def check(tensors, *settings):
    dtype = tensors[0].dtype
    pairs = zip(ours(tensors, *settings), expected(tensors, *settings), strict=True)
    for name, (a, e) in zip(("y", "dx", "dweight", "dbias"), pairs, strict=True):
        assert a.dtype == dtype
        assert relative_error(a, e) <= TOLERANCES[dtype], name


@pytest.mark.slow
@pytest.mark.parametrize("silu", (False, True))
@pytest.mark.parametrize("images", (0, 2))
@pytest.mark.parametrize("frames", (1, 5, 16))
def test_equals_the_definition(frames, images, silu):
    check(inputs(frames, images), 4, frames, images, False, silu)


@pytest.mark.parametrize("frames,images", ((1, 1), (5, 2), (3, 0)))
def test_images_that_join_the_statistics_of_their_clip(frames, images):
    check(inputs(frames, images), 4, frames, images, True, True)


@pytest.mark.slow
def test_images_alone():
    check(inputs(0, 3), 4, 0, 3, False, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, groups", (((32, 1, 1), 32), ((7, 1, 9), 1), ((6, 13, 2), 3), ((96, 5, 7), 32), ((40, 8, 8), 8))
)
def test_odd_sizes(shape, groups):
    if shape[1:] == (1, 1):  # one pixel a group: its variance comes from the frames
        check(inputs(5, 0, shape), groups, 5, 0, False, True)
    else:
        check(inputs(3, 1, shape), groups, 3, 1, False, True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("frames,images", ((1, 0), (5, 2)))
def test_dtypes(dtype, frames, images):
    check(inputs(frames, images, dtype=dtype), 4, frames, images, False, True)


def test_float32_parameters_over_low_precision_activations():
    x, weight, bias, dy = inputs(5, 2, dtype=torch.bfloat16)
    tensors = [x, weight.float(), bias.float(), dy]
    y, dx, dweight, dbias = ours(tensors, 4, 5, 2, False, True)
    assert (y.dtype, dx.dtype, dweight.dtype, dbias.dtype) == (torch.bfloat16,) * 2 + (torch.float32,) * 2
    for a, e in zip((y, dx, dweight, dbias), expected(tensors, 4, 5, 2, False, True), strict=True):
        assert relative_error(a, e) <= TOLERANCES[torch.bfloat16]


def test_large_mean_does_not_cancel():
    """E[x^2] - E[x]^2 in float32 would leave two digits of a variance of 4 beside a squared mean of 4e4."""
    tensors = inputs(5, 2, (12, 16, 16), mean=200.0)
    for a, e in zip(ours(tensors, 4, 5, 2, False, True), expected(tensors, 4, 5, 2, False, True), strict=True):
        assert relative_error(a, e) <= TOLERANCES[torch.float32]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("shape", ((12, 3, 5), (12, 1, 5), (12, 3, 1), (12, 1, 1), (1, 3, 5)))
def test_memory_is_channels_last(shape, dtype):
    x, weight, bias, dy = inputs(5, 2, shape, dtype)
    y, dx, _, _ = ours((x, weight, bias, dy.contiguous()), 1, 5, 2, False, True)
    for t in (y, dx):
        assert t.permute(0, 2, 3, 1).is_contiguous()
    contiguous = group_norm_silu(x.contiguous(), weight, bias, groups=1, eps=EPS, frames=5, images=2)
    assert torch.equal(contiguous, y) and contiguous.permute(0, 2, 3, 1).is_contiguous()


def test_statistics_are_of_the_clip_or_of_the_image():
    x, weight, bias, _ = inputs(3, 2)
    settings = dict(groups=4, eps=EPS, frames=3, images=2)
    before = group_norm_silu(x, weight, bias, **settings)
    x = x.clone()
    x[4] *= 3  # a frame of the second clip
    x[7] += 1 + x[7] ** 2  # the second image of the first clip
    same = (group_norm_silu(x, weight, bias, **settings) == before).flatten(1).all(-1)
    assert same.tolist() == [True] * 3 + [False] * 3 + [True, False, True, True]


@pytest.mark.slow
def test_results_do_not_depend_on_fresh_memory_and_repeat(poison):
    tensors = inputs(5, 2)
    first = ours(tensors, 4, 5, 2, False, True)
    poison()
    for a, b in zip(first, ours(tensors, 4, 5, 2, False, True), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_opcheck(dtype):
    x, weight, bias, dy = inputs(3, 1, dtype=dtype)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    forward = (*leaves, 4, EPS, 3, 1, False, True, "torch")
    _, mean, rstd = torch.ops.lavie.group_norm_silu(*forward)
    backward = (*tuple(t.detach() for t in (dy, *leaves, mean, rstd)), 4, 3, 1, False, True, "torch", x.detach(), True)
    check_operation("group_norm_silu", forward, "group_norm_silu_backward", backward)


def test_counts_that_do_not_divide():
    x, weight, bias, _ = inputs(3, 1)
    for wrong in (dict(groups=5, frames=3, images=1), dict(groups=4, frames=3)):
        with pytest.raises(ValueError, match=r"\(8, 12, 3, 5\).*wanted multiples of"):
            group_norm_silu(x, weight, bias, eps=EPS, **wrong)


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    tensors = inputs(5, 2)
    settings = dict(groups=4, eps=EPS, frames=5, images=2)
    compiled = torch.compile(lambda x, w, b: group_norm_silu(x, w, b, **settings), fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, *tensors), ours(tensors, 4, 5, 2, False, True), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()
