"""What a benchmark makes of ways that are right, wrong, or fail: it says so, and goes on."""

import os
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

from lavie.kernels.bench import harness, machine, timing
from lavie.kernels.bench.check import Case, Way
from lavie.kernels.cost import Cost
from tests.kernels.bench.gradients import Scaled

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


@pytest.mark.slow
def test_without_a_gpu_or_dry_run_it_says_what_to_do():
    command = [sys.executable, "-m", "lavie.kernels.bench.group_norm_silu"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "no CUDA device: give --dry-run" in done.stderr


def test_parts_add_up():
    cost = Cost(1, 20, 300, 4000)
    assert [harness.amounts(cost, part) for part in harness.PARTS] == [(1, 300), (20, 4000), (21, 4300)]
    assert harness.amounts(cost, "both", itemsize=4) == (42, 4300)


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


@pytest.mark.slow
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
        stack.enter_context(mock.patch.object(timing, "input_sets", return_value=[make(CPU, torch.float32)] * 3))
        stack.enter_context(mock.patch.object(timing, "time_once", lambda _, f, *__: (times[functions[f]](), 0.0)))
        host = machine.Host()
        host.warm_up, host.runs = 5, 50
        return harness.run_case("toy", case, host, torch.float32, {"copy_gb_per_s": 1000})


@pytest.mark.slow
def test_a_way_that_fails_while_it_is_timed_leaves_the_others_their_turns(monkeypatch):
    tired = iter([timing.Sample(1, 1, 3)] * 9)  # and then StopIteration
    times = dict(
        triton=lambda: timing.Sample(1.0, 2.0, 5.0),
        tired=lambda: next(tired),
        slow=lambda: timing.Sample(2.0, 4.0, 5.0),
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


@pytest.mark.slow
def test_where_ours_fails_rivals_have_times_and_no_ratio(tmp_path, monkeypatch):
    case = Case("toy", make, {"triton": Way(out_of_memory), "rival": Way(multiply)}, multiply, Cost(2, 4, 6, 8))
    rows = run_timed(case, dict(rival=lambda: timing.Sample(2.0, 4.0, 5.0)))
    assert [(r["way"], r.get("ms"), r.get("ratio")) for r in rows if r["part"] == "both"] == [
        ("triton", None, None),
        ("rival", "6.0000", ""),
    ]
    monkeypatch.setenv("LAVIE_BENCH_RESULTS", str(tmp_path / "results.csv"))
    harness.append(rows)
    harness.append(rows)
    assert (tmp_path / "results.csv").read_text().count("OutOfMemoryError: CUDA out of memory.") == 2 * 5


def test_columns_by_hand():
    """2 GB forward and 4 GB backward at two bytes an element, twice that at four, beside a copy of 800 GB/s."""
    cost = Cost(2 * 10**9, 4 * 10**9, 6 * 10**12, 8 * 10**12)
    parts = (*timing.PARTS, *timing.GRAPHS)
    way = timing.Measured(dict(zip(parts, (5.0, 20.0, 25.0, 4.0, 20.0), strict=True)), 7.4)
    ours = timing.Measured(dict(zip(parts, (4.0, 16.0, 20.0, 2.0), strict=False)), 3.0)
    columns = {"copy_gb_per_s": 800}
    rows = [harness.numbers(cost, part, way, ours, columns, torch.bfloat16) for part in parts]
    assert [row["ms"] for row in rows] == ["5.0000", "20.0000", "25.0000", "4.0000", "20.0000"]
    assert [row["ratio"] for row in rows] == [*["1.25"] * 3, "2.00", ""]
    assert [row["gb_per_s"] for row in rows] == ["400", "200", "240", "500", "300"]
    assert [row["tflop_per_s"] for row in rows] == ["1200.0", "400.0", "560.0", "1500.0", "700.0"]
    assert [row["share_of_copy"] for row in rows] == ["0.50", "0.25", "0.30", "0.62", "0.38"]
    assert [row["peak_mib"] for row in rows] == ["7"] * 5
    wide = harness.numbers(cost, "both", way, None, columns, torch.float32)
    assert (wide["gb_per_s"], wide["ratio"]) == ("480", "")


@pytest.mark.slow
def test_what_cannot_be_captured_has_the_reason_there_and_is_no_failure():
    """The second way's backward pass fails from its third call on: after the check and the time of its launches."""
    calls = {"backward": 0}

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            calls["backward"] += 1
            return gradient if calls["backward"] <= 2 else fail(RuntimeError("operation not permitted"))

    rows = harness.run_case(
        "toy", toy(second=Way(lambda x, y: Fails.apply(x) * y)), machine.Host(), torch.float32, {"copy_gb_per_s": 1}
    )
    told = {(row["way"], row["part"]): row["status"] for row in rows}
    assert told.pop(("second", "both, graph")) == "RuntimeError: operation not permitted"
    assert {*told.values()} == {"ok"} and len(told) == 9
    assert all(float(row["ms"]) > 0 for row in rows if row["status"] == "ok")
