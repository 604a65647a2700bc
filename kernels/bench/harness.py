"""Time an operation's ways against one another, on the GPU, in one run: checked first, then timed.

    python -m lavie.kernels.bench.<op> [--dtype bf16|fp16|fp32] [--only TEXT] [--dry-run]

Every way runs on the same inputs, rotated through more memory than the cache holds; a time is the median of many runs.
The run measures the rate of a device copy itself, and shares are of that. Rows are appended to results.csv.
A way that is wrong, runs out of memory or fails otherwise has the reason there as its status, the rest goes on, and the
exit code tells of it in the end.
`--dry-run` does all but time, on interpreter-sized shapes: it needs no GPU and catches what would fail on one.
"""

import argparse
import csv
import datetime
import gc
import os
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..cost import Cost
from .check import Case, Checker, Errors

RESULTS = Path(__file__).with_name("results.csv")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FIELDS = (
    *("date", "gpu", "clocks", "torch", "triton", "op", "case", "dtype", "way", "part", "ms", "ratio"),
    *("gb_per_s", "tflop_per_s", "copy_gb_per_s", "share_of_copy", "peak_mib", "error", "status"),
)
PARTS = ("forward", "backward", "both")
OK = "ok"
"""The status of a way that was timed; any other says why it was not."""
LONGEST_STATUS = 240
CACHE_FACTOR = 3
"""Input sets together are this many times the level-2 cache."""
RUNS, WARM_UP = 50, 5
CYCLES = 2e9
"""Cycles of a GPU's clock in a second, about: the clocks of those of the last years lie below it."""
SHORTEST, MARGIN = 2e-3, 1.5
"""Seconds for which the GPU waits before a pass at least, and how many times what the host took to launch the last."""

Row = dict[str, Any]


class Sample(NamedTuple):
    """One run of a way, or what many have in common."""

    forward: float
    backward: float
    both: float
    """Milliseconds."""
    peak: float
    """MiB above what was allocated before."""


def main(op: str, cases: Callable[[bool], Iterator[Case]]) -> None:
    """Run the command line of a benchmark."""
    parser = argparse.ArgumentParser(description=f"Benchmark of {op}.")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains it")
    parser.add_argument("--dry-run", action="store_true", help="check, but do not time; works without a GPU")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device: give --dry-run to check the benchmark without one")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # a reference in float32 is meant to be that
    machine = {} if args.dry_run else describe_machine(device)

    # Rows are appended case by case, so that a run that is cut short keeps what it has.
    failed = []
    for case in cases(args.dry_run):
        if args.only in case.name:
            rows = run_case(op, case, device, DTYPES[args.dtype], machine, args.dry_run)
            failed += [f"{row['case']}, {row['way']}" for row in rows if row["status"] != OK and row["part"] == "both"]
            if not args.dry_run:
                append(rows)
    if failed:
        raise SystemExit("\n  ".join([f"{op}: {len(failed)} of its ways failed:", *failed]))


def run_case(
    op: str, case: Case, device: torch.device, dtype: torch.dtype, machine: Row, dry: bool = False
) -> list[Row]:
    """Check every way, then time those that are right, unless the run is dry; prints a line for each.

    Returns a row per way and part; those of a way that failed have nothing but a status.
    """
    print(f"{op}  {case.name}  {dtype}".replace("torch.", ""), flush=True)
    torch.compiler.reset()
    functions = {name: way.ready(dry) for name, way in case.ways.items()}
    ours = next(iter(functions))

    # First whether each way is right, then how long those that are right take.
    failures: dict[str, str] = {}
    errors: dict[str, Errors] = {}
    samples: dict[str, Sample] = {}
    with recorded(failures, *functions, doing="the definition: "):
        checker = Checker(case, device, dtype)
        for name, function in functions.items():
            with recorded(failures, name):
                errors[name] = checker.errors(case.ways[name], function, each=name == ours)
    if errors and not dry:
        with recorded(failures, *errors):
            samples = measure(case, {name: functions[name] for name in errors}, device, dtype, failures)

    rows = []
    for name in functions:
        common = {**machine, "op": op, "case": case.name, "dtype": str(dtype).removeprefix("torch."), "way": name}
        status = failures.get(name, OK)
        if status != OK:
            print(f"  {name:28} FAILED: {status}", flush=True)
        elif dry:
            print(f"  {name:28} error {errors[name].worst:.1e}", flush=True)
        parts = [{**common, "part": part, "status": status} for part in PARTS]
        if name in samples:
            for row in parts:
                row |= numbers(case.cost, row["part"], samples[name], samples.get(ours), machine, dtype)
                row["error"] = f"{errors[name].worst:.1e}"
            print(f"  {name:28}" + "".join(map(_cell, parts)) + f"  {samples[name].peak:.0f} MiB", flush=True)
        rows += parts
    return rows


@contextmanager
def recorded(failures: dict[str, str], *names: str, doing: str = "") -> Iterator[None]:
    """Make of an exception within the block the status of the ways `names`, and free the memory that it holds."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        failures.update(dict.fromkeys(names, f"{doing}{type(error).__name__}: {lines[0]}"[:LONGEST_STATUS]))
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of what failed
        gc.collect()
        with suppress(RuntimeError):  # a GPU that has met an illegal address fails here again
            torch.cuda.empty_cache()


def numbers(cost: Cost, part: str, sample: Sample, ours: Sample | None, machine: Row, dtype: torch.dtype) -> Row:
    """Return the columns of a part that was timed; the ratio stays empty where ours was not."""
    ms = getattr(sample, part)
    moved, flops = amounts(cost, part, dtype.itemsize)
    rate = moved / ms / 1e6
    return {
        "ms": f"{ms:.4f}",
        "ratio": f"{ms / getattr(ours, part):.2f}" if ours else "",
        "gb_per_s": f"{rate:.0f}",
        "tflop_per_s": f"{flops / ms / 1e9:.1f}",
        "share_of_copy": f"{rate / machine['copy_gb_per_s']:.2f}",
        "peak_mib": f"{sample.peak:.0f}",
    }


def _cell(row: Row) -> str:
    """Return a part of a printed line: time, ratio to ours, share of a copy's rate."""
    ratio = f" x{row['ratio']}" if row["ratio"] else ""
    return f"  {row['part']} {row['ms']} ms{ratio} ({float(row['share_of_copy']):.0%} of copy)"


def amounts(cost: Cost, part: str, itemsize: int = 2) -> tuple[int, int]:
    """Return the floor bytes and FLOPs of a part, with elements of `itemsize` bytes."""
    moved = {"forward": cost.forward_bytes, "backward": cost.backward_bytes}
    flops = {"forward": cost.forward_flops, "backward": cost.backward_flops}
    parts = ("forward", "backward") if part == "both" else (part,)
    return sum(moved[p] for p in parts) * itemsize // 2, sum(flops[p] for p in parts)


def input_sets(case: Case, device: torch.device, dtype: torch.dtype) -> list[list[Tensor]]:
    """Return enough sets of leaves to overflow the cache before one comes round again."""
    first = case.make(device, dtype)
    size = sum(t.numel() * t.element_size() for t in first)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return [first, *(case.make(device, dtype) for _ in range(min(31, max(1, CACHE_FACTOR * cache // size))))]


def measure(
    case: Case,
    functions: dict[str, Callable[..., Tensor]],
    device: torch.device,
    dtype: torch.dtype,
    failures: dict[str, str],
) -> dict[str, Sample]:
    """Return the median times of a case's ways and the most memory each took, but for ways it adds to `failures`.

    The ways take turns, run by run, so that clocks and heat treat them alike.
    """
    # By way: its input sets in the layout that it wants, the output's gradient, and the runs so far.
    sets = input_sets(case, device, dtype)
    laid: dict[str, list[list[Tensor]]] = {}
    gradients: dict[str, Tensor] = {}
    samples: dict[str, list[Sample]] = {name: [] for name in functions}
    host = dict.fromkeys(functions, 0.0)

    # Runs below 0 warm up. A way that fails leaves the rotation, and its memory with it.
    for run in range(-WARM_UP, RUNS):
        for name in [*samples]:
            with recorded(failures, name):
                if name not in laid:
                    laid[name] = [case.ways[name].lay(leaves) for leaves in sets]
                    gradients[name] = torch.randn_like(functions[name](*laid[name][0]))
                leaves = laid[name][run % len(sets)]
                sample, host[name] = time_once(functions[name], leaves, gradients[name], host[name])
                if run >= 0:
                    samples[name].append(sample)
            if name in failures:
                for kept in (laid, gradients, samples):
                    kept.pop(name, None)

    return {name: _median(runs) for name, runs in samples.items()}


def _median(samples: list[Sample]) -> Sample:
    """Return the median of each time, and the largest peak."""
    forward, backward, both = (statistics.median(getattr(s, part) for s in samples) for part in PARTS)
    return Sample(forward, backward, both, max(s.peak for s in samples))


def time_once(
    function: Callable[..., Tensor], leaves: list[Tensor], gradient: Tensor, host: float
) -> tuple[Sample, float]:
    """Run forward and backward once, timed on the GPU's own clock.

    Args:
        function, leaves, gradient: what is run, and the gradient of its output.
        host: seconds that the host takes to launch the longer of the two; the GPU waits for longer than that.

    Returns:
        The times, and the seconds that the host took this time.
    """
    wanted = [t for t in leaves if t.requires_grad]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()

    marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
    # Sleeps that outlast the host's work, so that launches queue up behind them and no gap is timed. A whole network
    # has thousands of launches, which take the host longer than the GPU's work may.
    cycles = int(CYCLES * max(SHORTEST, MARGIN * host))
    began = time.perf_counter()
    torch.cuda._sleep(cycles)
    marks[0].record()
    y = function(*leaves)
    marks[1].record()
    between = time.perf_counter()
    torch.cuda.synchronize()
    torch.cuda._sleep(cycles)
    again = time.perf_counter()
    marks[2].record()
    torch.autograd.grad(y, wanted, gradient)
    marks[3].record()
    host = max(between - began, time.perf_counter() - again)
    torch.cuda.synchronize()

    forward, backward = marks[0].elapsed_time(marks[1]), marks[2].elapsed_time(marks[3])
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return Sample(forward, backward, forward + backward, peak), host


def describe_machine(device: torch.device) -> Row:
    """Return the columns that all rows of a run share: date, GPU, clocks, versions, and the rate of a copy now."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        clocks = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().replace(",", " /")
    except (OSError, subprocess.CalledProcessError):
        clocks = "unknown"
    return {
        "date": datetime.date.today().isoformat(),
        "gpu": torch.cuda.get_device_name(device),
        "clocks": clocks,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "copy_gb_per_s": copy_rate(device),
    }


def copy_rate(device: torch.device) -> float:
    """Return the bytes read plus written by a copy of 1 GiB, in GB/s."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = triton.testing.do_bench(lambda: target.copy_(source), return_mode="median")
    return round(2 * source.numel() / times / 1e6)


def results_file() -> Path:
    """Return results.csv, or the file that LAVIE_BENCH_RESULTS names."""
    return Path(os.environ.get("LAVIE_BENCH_RESULTS", RESULTS))


def append(rows: list[Row]) -> None:
    """Add rows to the file of results."""
    path = results_file()
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
