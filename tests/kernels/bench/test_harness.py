"""What a benchmark makes of ways that are right, wrong, or fail: it says so, and goes on."""

import os
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

from lavie.kernels.bench import harness
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
        stack.enter_context(mock.patch.object(harness, "input_sets", return_value=[make(CPU, torch.float32)] * 3))
        stack.enter_context(mock.patch.object(harness, "time_once", lambda f, *_: (times[functions[f]](), 0.0)))
        return harness.run_case("toy", case, CPU, torch.float32, {"copy_gb_per_s": 1000})


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("cache, sets", ((0, 2), (191, 3), (640, 11), (10**9, 32)))
def test_input_sets_overflow_the_cache(monkeypatch, cache, sets):
    """A set has 192 bytes. Behind the first come as many as fill the cache three times, at least 1 and at most 31."""
    properties = SimpleNamespace(L2_cache_size=cache)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    made = harness.input_sets(toy(), CPU, torch.float32)
    assert len(made) == sets
    assert len({leaves[0].data_ptr() for leaves in made}) == sets
    assert all(len(leaves) == 2 and leaves[0].requires_grad for leaves in made)


def test_columns_by_hand():
    """2 GB forward and 4 GB backward at two bytes an element, twice that at four, beside a copy of 800 GB/s."""
    cost, sample = Cost(2 * 10**9, 4 * 10**9, 6 * 10**12, 8 * 10**12), harness.Sample(5.0, 20.0, 25.0, 7.4)
    ours = harness.Sample(4.0, 16.0, 20.0, 3.0)
    machine = {"copy_gb_per_s": 800}
    rows = [harness.numbers(cost, part, sample, ours, machine, torch.bfloat16) for part in harness.PARTS]
    assert [row["ms"] for row in rows] == ["5.0000", "20.0000", "25.0000"]
    assert [row["ratio"] for row in rows] == ["1.25"] * 3
    assert [row["gb_per_s"] for row in rows] == ["400", "200", "240"]
    assert [row["tflop_per_s"] for row in rows] == ["1200.0", "400.0", "560.0"]
    assert [row["share_of_copy"] for row in rows] == ["0.50", "0.25", "0.30"]
    assert [row["peak_mib"] for row in rows] == ["7"] * 3
    wide = harness.numbers(cost, "both", sample, None, machine, torch.float32)
    assert (wide["gb_per_s"], wide["ratio"]) == ("480", "")


def test_the_median_of_times_and_the_largest_peak():
    runs = [harness.Sample(f, b, f + b, p) for f, b, p in ((1, 30, 5), (2, 10, 9), (9, 20, 7))]
    assert harness._median(runs) == (2, 20, 29, 9)


class FakeClock:
    """A GPU and a clock of the host by hand: each launch of a pass takes the host a second."""

    def __init__(self, monkeypatch):
        self.now, self.slept = 0.0, []
        event = SimpleNamespace(record=lambda: None, elapsed_time=lambda later: 1.0)
        fakes = dict(synchronize=lambda: None, reset_peak_memory_stats=lambda: None, memory_allocated=lambda: 0)
        fakes |= dict(max_memory_allocated=lambda: 2**20, _sleep=self.slept.append, Event=lambda **_: event)
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(harness.time, "perf_counter", lambda: self.now)

    def launch(self, x):
        self.now += 1.0
        return x * 2


def test_the_gpu_waits_for_longer_than_the_host_takes_to_launch(monkeypatch):
    """A whole network's launches would else be timed with the gaps between them."""
    clock, x = FakeClock(monkeypatch), torch.ones(3, requires_grad=True)
    sample, host = harness.time_once(clock.launch, [x], torch.ones(3), 0.0)
    assert (sample.both, sample.peak, host) == (2.0, 1.0, 1.0)
    harness.time_once(clock.launch, [x], torch.ones(3), host)
    assert clock.slept == [harness.CYCLES * harness.SHORTEST] * 2 + [harness.CYCLES * harness.MARGIN] * 2
