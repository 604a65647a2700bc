"""residual_block equals its operations one by one in float64, with every gradient, and keeps two activations."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lavie.ops.residual_block import NormSettings, residual_block, separate_operations
from lavie.testing import TOLERANCES, relative_error

PARTS = ("x", "skip", "time", "norm1", "norm1 bias", "conv1", "conv1 bias", "norm2", "norm2 bias", "conv2")
PARTS += ("conv2 bias", "shortcut", "shortcut bias")


def inputs(frames, images, skip, shortcut, dtype=torch.float64, batch=2):
    """The tensors in the order of PARTS; None where the block has no such part."""
    g = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=g).to(dtype)

    rows, width, out = batch * (frames + images), 16, 24 if shortcut else 16
    cut = 6 if skip else 0
    x, other = (
        (randn(rows, 4, 5, c) + 1).permute(0, 3, 1, 2) if c else None for c in (width - cut, cut)
    )  # channels last
    tensors = [x, other, randn(batch, out), *randn(2, width), randn(out, width, 3, 3) / 12, randn(out)]
    tensors += [*randn(2, out), randn(out, out, 3, 3) / 12, randn(out)]
    return tensors + ([randn(out, width, 1, 1) / 4, randn(out)] if shortcut else [None, None])


def run(function, tensors, settings, frozen=()):
    """The output, and the gradients by part."""
    leaves = [None if t is None else t.detach().requires_grad_(i not in frozen) for i, t in enumerate(tensors)]
    x, skip, time, *rest = leaves
    pairs = [None if rest[i] is None else (rest[i], rest[i + 1]) for i in range(0, 10, 2)]
    y = function(x, skip, time, *pairs, settings)
    wanted = {PARTS[i]: t for i, t in enumerate(leaves) if t is not None and t.requires_grad}
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    dy = dy.contiguous(memory_format=torch.channels_last)
    return y.detach(), dict(zip(wanted, torch.autograd.grad(y, list(wanted.values()), dy), strict=True))


def settings_of(frames, images, pool_images=False):
    return NormSettings(4, 1e-5, frames, images, pool_images)


def check(tensors, settings, frozen=(), dtype=torch.float64):
    actual, gradients = run(residual_block, tensors, settings, frozen)
    exact = [None if t is None else t.double() for t in tensors]
    expected, wanted = run(separate_operations, exact, settings, frozen)
    assert actual.dtype == dtype and actual.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(actual, expected) <= TOLERANCES[dtype]
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        assert relative_error(gradient, wanted[name]) <= TOLERANCES[dtype], name


@pytest.mark.parametrize("skip", (False, True))
@pytest.mark.parametrize("shortcut", (False, True))
@pytest.mark.parametrize(
    "frames,images,pool", ((3, 0, False), (3, 2, False), (3, 2, True), (0, 2, False), (1, 0, False))
)
def test_equals_its_operations(frames, images, pool, shortcut, skip):
    check(inputs(frames, images, skip, shortcut), settings_of(frames, images, pool))


def test_a_single_sample_with_images_has_one_time():
    check(inputs(3, 2, True, True, batch=1), settings_of(3, 2, True))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_dtypes(dtype):
    check(inputs(3, 1, False, True, dtype), settings_of(3, 1), dtype=dtype)


@pytest.mark.parametrize("frozen", (range(3, 13), (5, 9, 11), (0, 1), (2, 6, 10, 12)))
def test_what_is_frozen_gets_no_gradient_and_the_rest_gets_its_own(frozen):
    check(inputs(3, 1, True, True), settings_of(3, 1), frozen)


def test_under_autocast_it_is_its_operations():
    tensors = inputs(3, 1, False, True, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        actual, gradients = run(residual_block, tensors, settings_of(3, 1))
        expected, wanted = run(separate_operations, tensors, settings_of(3, 1))
    assert torch.equal(actual, expected) and all(torch.equal(g, wanted[name]) for name, g in gradients.items())


def test_it_keeps_its_input_and_the_first_convolutions_output_alone():
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    tensors = inputs(3, 0, True, True)
    x, skip, time, *rest = (t.requires_grad_() for t in tensors)
    pairs = [(rest[i], rest[i + 1]) for i in range(0, 10, 2)]
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = residual_block(x, skip, time, *pairs, settings_of(3, 0))
    weights = {t.data_ptr() for t in rest}
    activations = [t for t in kept if t.ndim == 4 and t.data_ptr() not in weights]
    assert [tuple(t.shape) for t in activations] == [tuple(x.shape), tuple(skip.shape), tuple(y.shape)]
    assert activations[0].data_ptr() == x.data_ptr() and activations[1].data_ptr() == skip.data_ptr()
