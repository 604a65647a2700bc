"""What is wrong in a block of the network at its real width is refused, gradients too; what is right is not."""

from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from lavie.config.model import UNetConfig
from lavie.kernels.bench import geglu, group_norm_silu, layer_norm, pseudo3d_conv, temporal_attention, unet
from lavie.kernels.bench.check import Checker, Way, WrongResult
from lavie.ops import group_norm_linear, residual_block
from lavie.ops.group_norm_silu import norm_backward
from tests.kernels.bench.gradients import Scaled

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def block() -> Checker:
    return Checker(unet.block_case(UNetConfig(), 0, 1, 4, (4, 6), 8), CPU, torch.bfloat16)


def test_plain_pytorch_is_right_where_gradients_nearly_cancel(block):
    way = block.case.ways["torch"]
    errors = block.errors(way, way.function)
    assert errors == block.plain
    assert max(errors.by_gradient) > block.tolerance > 2 * errors.worst  # the worst gradient alone says nothing


def test_the_released_operations_are_right(block):
    way = block.case.ways["released"]
    block.errors(way, way.function, each=False)


NORM = (unet.resnet_module, "group_norm_silu")
ATTENTION = (unet.attention_module, "temporal_attention")


@pytest.mark.parametrize(
    "operation, argument, factor",
    (
        *((NORM, argument, factor) for argument in ("x", "weight", "bias") for factor in (1.1, 0)),
        (ATTENTION, "qkv", 1.1),
        (ATTENTION, "qkv", 0),
        (ATTENTION, "position bias", 0),
    ),
)
def test_a_wrong_gradient_of_one_operation_is_refused(block, operation, argument, factor):
    """Of the norm in the transformer and, beside it, of those within the residual block."""
    right, names = getattr(*operation), ("x", "weight", "bias") if operation == NORM else ("qkv",)

    def wrong(*tensors, **settings):
        tensors = [Scaled.apply(t, factor) if n == argument else t for n, t in zip(names, tensors, strict=True)]
        if argument == "position bias":
            settings["bias"] = Scaled.apply(settings["bias"], factor)
        return right(*tensors, **settings)

    def wrong_within(*tensors):
        *gradients, y = norm_backward(*tensors)
        if operation != NORM:
            return *gradients, y
        return *(g * factor if n == argument else g for n, g in zip(names, gradients, strict=True)), y

    within = mock.patch.object(residual_block, "norm_backward", wrong_within)
    beside = mock.patch.object(group_norm_linear, "norm_backward", wrong_within)
    with mock.patch.object(*operation, wrong), within, beside, pytest.raises(WrongResult, match="gradient"):
        block.errors(Way(block.case.reference), block.case.reference)


@pytest.mark.slow
@pytest.mark.parametrize("bench", (geglu, group_norm_silu, layer_norm, pseudo3d_conv, temporal_attention, unet))
def test_cases_of_full_size_are_made(bench):
    names = [case.name for case in bench.cases(False)]
    assert len(names) == len({*names}) > 5


@pytest.mark.parametrize(
    "case",
    [
        case
        for bench in (geglu, group_norm_silu, layer_norm, pseudo3d_conv, temporal_attention)
        for case in bench.cases(True)
    ],
    ids=lambda case: case.name,
)
def test_every_way_computes_what_the_definition_does(case):
    """In float64, where a wrong border, factor or order cannot pass for rounding; ours are tested elsewhere."""
    torch.manual_seed(0)
    leaves = case.make(CPU, torch.float64)
    wanted = [t for t in leaves if t.requires_grad]
    expected = case.reference(*leaves)
    gradient = torch.randn_like(expected)
    expected = [expected, *torch.autograd.grad(expected, wanted, gradient)]
    for name, way in case.ways.items():
        if name in ("triton", "fused norm + cuDNN", "flash-attn"):
            continue
        laid = [t.detach().requires_grad_(t.requires_grad) for t in way.lay(leaves)]
        y = way.function(*laid)
        found = [y, *torch.autograd.grad(y, [t for t in laid if t.requires_grad], gradient)]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    "gpu, version, old", ((True, 91499, True), (True, 91500, False), (True, None, True), (False, 91499, False))
)
def test_an_old_cudnn_is_not_timed(monkeypatch, gpu, version, old):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    ways = pseudo3d_conv.conv_case(pseudo3d_conv.Conv(3, 32, 2, 3, False)).ways
    assert ("conv3d channels_last_3d" not in ways) == old
