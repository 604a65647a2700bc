"""What a benchmark makes of ways that are right, wrong, or fail: it says so, and goes on."""

import sys
from contextlib import ExitStack
from functools import partial
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

from lavie.config.model import UNetConfig
from lavie.kernels.bench import group_norm_silu, harness, pseudo3d_conv, temporal_attention, unet
from lavie.kernels.bench.check import Case, Checker, Way, WrongResult
from lavie.kernels.cost import Cost

CPU = torch.device("cpu")


class Scaled(torch.autograd.Function):
    """The identity, with a gradient that is wrong by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


# --- a block of the network, at its real width


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
    right = getattr(*operation)

    def wrong(*tensors, **settings):
        names = ("x", "weight", "bias") if operation == NORM else ("qkv",)
        tensors = [Scaled.apply(t, factor) if n == argument else t for n, t in zip(names, tensors, strict=True)]
        if argument == "position bias":
            settings["bias"] = Scaled.apply(settings["bias"], factor)
        return right(*tensors, **settings)

    with mock.patch.object(*operation, wrong), pytest.raises(WrongResult, match="gradient"):
        block.errors(Way(block.case.reference), block.case.reference)


@pytest.mark.parametrize("bench", (group_norm_silu, pseudo3d_conv, temporal_attention, unet))
def test_cases_of_full_size_are_made(bench):
    names = [case.name for case in bench.cases(False)]
    assert len(names) == len({*names}) > 5


# --- a small case of every fate


def make(device, dtype):
    return [torch.randn(6, 4, device=device, dtype=dtype).requires_grad_() for _ in range(2)]


def multiply(x, y):
    return x * y


def fail(error, *leaves):
    raise error


def out_of_memory(*leaves):
    raise torch.OutOfMemoryError("CUDA out of memory.\nand much more")


def toy(name="toy", reference=multiply, **ways):
    return Case(name, make, {"triton": Way(multiply), **ways}, reference, Cost(2, 4, 6, 8))


WAYS = dict(
    full=Way(out_of_memory),
    resources=Way(partial(fail, OutOfResources(147456, 101376, "shared memory"))),
    turned=Way(multiply, orders=((1, 0), None)),
    wrong=Way(lambda x, y: x * y * 1.1),
    nan=Way(lambda x, y: x * y + torch.nan),
    gradient=Way(lambda x, y: x * Scaled.apply(y, 1.1)),
)


def test_what_fails_is_named_and_the_rest_goes_on(monkeypatch, capsys):
    cases = [toy("all fates", **WAYS), toy("no definition", out_of_memory), toy("the last")]
    monkeypatch.setattr(sys, "argv", ["bench", "--dry-run"])
    with pytest.raises(SystemExit) as end:
        harness.main("toy", lambda tiny: iter(cases))
    fates = ("full", "resources", "wrong", "nan", "gradient")
    assert str(end.value).split("\n  ")[1:] == [*(f"all fates, {name}" for name in fates), "no definition, triton"]
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    said = [(name, fate, text) for name, fate, text in lines]
    assert [(name, fate) for name, fate, _ in said] == [
        ("triton", "error"),
        ("full", "FAILED:"),
        ("resources", "FAILED:"),
        ("turned", "error"),
        ("wrong", "FAILED:"),
        ("nan", "FAILED:"),
        ("gradient", "FAILED:"),
        ("triton", "FAILED:"),
        ("triton", "error"),
    ]
    assert said[1][2] == "OutOfMemoryError: CUDA out of memory."
    assert "shared memory" in said[2][2] and "147456" in said[2][2]
    assert said[4][2].startswith("WrongResult: output off by 1.0e-01, limit 1.0e-02")
    assert "output off by nan" in said[5][2]
    assert said[7][2] == "the definition: OutOfMemoryError: CUDA out of memory."


def run_timed(case, times):
    """run_case without a GPU; times: of each way, called for every run."""
    functions = {way.function: name for name, way in case.ways.items()}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(harness, "input_sets", return_value=[make(CPU, torch.float32)] * 3))
        stack.enter_context(mock.patch.object(harness, "time_once", lambda function, *_: times[functions[function]]()))
        return harness.run_case("toy", case, CPU, torch.float32, {"copy_gb_per_s": 1000})


def test_a_way_that_fails_while_it_is_timed_leaves_the_others_their_turns(monkeypatch):
    tired = iter([harness.Sample(1, 1, 2, 3)] * 9)  # and then StopIteration
    times = dict(
        triton=lambda: harness.Sample(1.0, 2.0, 3.0, 5.0),
        tired=lambda: next(tired),
        slow=lambda: harness.Sample(2.0, 4.0, 6.0, 5.0),
    )
    stray = Way(lambda x, y: x * y)
    ways = dict(tired=Way(lambda x, y: x * y), full=Way(out_of_memory), stray=stray, slow=Way(lambda x, y: y * x))
    case = toy(**ways)
    lay, laid = Way.lay, []

    def once(way, leaves):
        laid.append(way)
        return out_of_memory() if way is stray and laid.count(stray) > 1 else lay(way, leaves)  # once for the check

    monkeypatch.setattr(Way, "lay", once)
    rows = run_timed(case, times)
    assert [(r["way"], r.get("ms"), r.get("ratio"), r["status"]) for r in rows if r["part"] == "both"] == [
        ("triton", "3.0000", "1.00", "ok"),
        ("tired", None, None, "StopIteration: "),
        ("full", None, None, "OutOfMemoryError: CUDA out of memory."),
        ("stray", None, None, "OutOfMemoryError: CUDA out of memory."),
        ("slow", "6.0000", "2.00", "ok"),
    ]
    assert {*rows[0]} <= {*harness.FIELDS}


def test_where_ours_fails_rivals_have_times_and_no_ratio(tmp_path, monkeypatch):
    case = Case("toy", make, {"triton": Way(out_of_memory), "rival": Way(multiply)}, multiply, Cost(2, 4, 6, 8))
    rows = run_timed(case, dict(rival=lambda: harness.Sample(2.0, 4.0, 6.0, 5.0)))
    assert [(r["way"], r.get("ms"), r.get("ratio")) for r in rows if r["part"] == "both"] == [
        ("triton", None, None),
        ("rival", "6.0000", ""),
    ]
    monkeypatch.setenv("LAVIE_BENCH_RESULTS", str(tmp_path / "results.csv"))
    harness.append(rows)
    harness.append(rows)
    assert (tmp_path / "results.csv").read_text().count("OutOfMemoryError: CUDA out of memory.") == 6
