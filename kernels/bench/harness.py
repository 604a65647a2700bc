"""Times an operation's ways against one another, on the GPU, in one run: checked first, then timed.

    python -m lavie.kernels.bench.<op> [--dtype bf16|fp16|fp32] [--only TEXT] [--dry-run]

Every way runs on the same inputs, rotated through more memory than the cache holds; a time is the median of many runs.
The run measures the rate of a device copy itself, and shares are of that. Rows are appended to results.csv.
`--dry-run` does all but time, on interpreter-sized shapes: it needs no GPU and catches what would fail on one.
"""

import argparse
import csv
import datetime
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from ...ops.backend import set_backend
from ...testing import TOLERANCES, relative_error
from ..cost import Cost

RESULTS = Path(__file__).with_name("results.csv")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FIELDS = (
    *("date", "gpu", "clocks", "torch", "triton", "op", "case", "dtype", "way", "part", "ms", "ratio"),
    *("gb_per_s", "tflop_per_s", "copy_gb_per_s", "share_of_copy", "peak_mib", "error"),
)
PARTS = ("forward", "backward", "both")
CACHE_FACTOR = 3
"""Input sets together are this many times the level-2 cache."""
RUNS, WARM_UP = 50, 5
HOST_CYCLES = 4_000_000
"""About two milliseconds of a GPU clock: longer than it takes to launch the longest chain of small kernels here."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One shape of an operation, and the ways to compute it."""

    name: str
    make: Callable[[torch.device, torch.dtype], list[Tensor]]
    """Fresh random leaves, requires_grad where a gradient is wanted."""
    ways: dict[str, Callable[..., Tensor]]
    """Functions of the leaves, ours first."""
    reference: Callable[..., Tensor]
    """The definition, given float32 copies of the leaves."""
    cost: Cost
    """Of elements of two bytes."""
    roundings: int = 1
    """How many operations deep it is: the tolerance of one grows with the square root."""


_dry = False


def using(backend: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with "auto" meaning `backend` while it and its gradient are computed."""

    def run(*leaves: Tensor) -> Any:
        return function(*leaves)

    run.backend = backend  # type: ignore[attr-defined]
    return run


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for one shape; in a dry run, its tracing only."""
    return torch.compile(function, dynamic=False, backend="aot_eager" if _dry else "inductor")


def main(op: str, cases: Callable[[bool], Iterator[Case]]) -> None:
    """The command line of a benchmark."""
    global _dry
    parser = argparse.ArgumentParser(description=f"Benchmark of {op}.")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains it")
    parser.add_argument("--dry-run", action="store_true", help="check, but do not time; works without a GPU")
    args = parser.parse_args()
    _dry = args.dry_run
    if not _dry and not torch.cuda.is_available():
        parser.error("no CUDA device: give --dry-run to check the benchmark without one")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = {} if _dry else describe_machine(device)
    for case in cases(_dry):
        if args.only in case.name:
            rows = run_case(op, case, device, DTYPES[args.dtype], machine)
            if not _dry:
                append(rows)


def run_case(op: str, case: Case, device: torch.device, dtype: torch.dtype, machine: Row) -> list[Row]:
    """Check every way, then time those that are right; prints a line for each."""
    print(f"{op}  {case.name}  {dtype}".replace("torch.", ""), flush=True)
    torch.compiler.reset()
    errors = {name: check(case, way, device, dtype) for name, way in case.ways.items()}
    limit = TOLERANCES[dtype] * case.roundings**0.5
    right = {name: error for name, error in errors.items() if error <= limit}
    for name in errors.keys() - right.keys():
        print(f"  {name:28} WRONG: relative error {errors[name]:.1e}, not timed")
    if _dry:
        for name, error in right.items():
            print(f"  {name:28} error {error:.1e}")
        assert len(right) == len(errors), "a way is wrong"
        return []
    ours = next(iter(case.ways))
    if ours not in right:
        raise SystemExit(f"{op}, {case.name}: ours is wrong")
    sets = input_sets(case, device, dtype)
    times, peaks = measure({name: case.ways[name] for name in right}, sets)
    rows = []
    for name, error in right.items():
        for part in PARTS:
            ms = times[name][part]
            moved, flops = amounts(case.cost, part, dtype.itemsize)
            rate = moved / ms / 1e6
            rows.append(
                {
                    **machine,
                    "op": op,
                    "case": case.name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "way": name,
                    "part": part,
                    "ms": f"{ms:.4f}",
                    "ratio": f"{ms / times[ours][part]:.2f}",
                    "gb_per_s": f"{rate:.0f}",
                    "tflop_per_s": f"{flops / ms / 1e9:.1f}",
                    "share_of_copy": f"{rate / machine['copy_gb_per_s']:.2f}",
                    "peak_mib": f"{peaks[name]:.0f}",
                    "error": f"{error:.1e}",
                }
            )
        print(f"  {name:28}" + "".join(_cell(row) for row in rows[-3:]) + f"  {peaks[name]:.0f} MiB", flush=True)
    return rows


def _cell(row: Row) -> str:
    return f"  {row['part']} {row['ms']} ms x{row['ratio']} ({float(row['share_of_copy']):.0%} of copy)"


def amounts(cost: Cost, part: str, itemsize: int = 2) -> tuple[int, int]:
    """Floor bytes and FLOPs of a part, with elements of `itemsize` bytes."""
    moved = {"forward": cost.forward_bytes, "backward": cost.backward_bytes}
    flops = {"forward": cost.forward_flops, "backward": cost.backward_flops}
    parts = ("forward", "backward") if part == "both" else (part,)
    return sum(moved[p] for p in parts) * itemsize // 2, sum(flops[p] for p in parts)


def check(case: Case, way: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> float:
    """The worst relative L2 error of the output and of each gradient; infinite if a number is not finite."""
    torch.manual_seed(0)
    leaves = case.make(device, dtype)
    exact = [t.detach().float().requires_grad_() if t.requires_grad else _widen(t) for t in leaves]
    outputs = []
    for function, inputs in ((way, leaves), (case.reference, exact)):
        set_backend(getattr(function, "backend", "auto"), device)
        y = function(*inputs)
        torch.manual_seed(1)
        dy = torch.randn(y.shape, device=device).to(dtype).to(y.dtype)
        outputs.append([y.detach(), *torch.autograd.grad(y, [t for t in inputs if t.requires_grad], dy)])
    worst = max(relative_error(a, e) for a, e in zip(*outputs, strict=True))
    return worst if worst == worst else float("inf")


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def input_sets(case: Case, device: torch.device, dtype: torch.dtype) -> list[list[Tensor]]:
    """Enough sets of leaves to overflow the cache before one comes round again."""
    first = case.make(device, dtype)
    size = sum(t.numel() * t.element_size() for t in first)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return [first, *(case.make(device, dtype) for _ in range(min(31, max(1, CACHE_FACTOR * cache // size))))]


def measure(
    ways: dict[str, Callable[..., Tensor]], sets: list[list[Tensor]]
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Median milliseconds of forward, backward and both, and the peak MiB of both, by way.

    The ways take turns, run by run, so that clocks and heat treat them alike.
    """
    samples: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PARTS} for name in ways}
    peaks = dict.fromkeys(ways, 0.0)
    gradients: dict[str, Tensor] = {}
    for run in range(-WARM_UP, RUNS):
        leaves = sets[run % len(sets)]
        wanted = [t for t in leaves if t.requires_grad]
        for name, way in ways.items():
            set_backend(getattr(way, "backend", "auto"), sets[0][0].device)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
            # Sleeps that outlast the host's work, so that launches queue up behind them and no gap is timed.
            torch.cuda._sleep(HOST_CYCLES)
            marks[0].record()
            y = way(*leaves)
            marks[1].record()
            if name not in gradients:
                gradients[name] = torch.randn_like(y)
            torch.cuda._sleep(HOST_CYCLES)
            marks[2].record()
            torch.autograd.grad(y, wanted, gradients[name])
            marks[3].record()
            torch.cuda.synchronize()
            if run >= 0:
                forward, backward = marks[0].elapsed_time(marks[1]), marks[2].elapsed_time(marks[3])
                for part, ms in zip(PARTS, (forward, backward, forward + backward), strict=True):
                    samples[name][part].append(ms)
                peaks[name] = max(peaks[name], (torch.cuda.max_memory_allocated() - before) / 2**20)
            del y
    return {name: {part: statistics.median(ms) for part, ms in parts.items()} for name, parts in samples.items()}, peaks


def describe_machine(device: torch.device) -> Row:
    """GPU, clocks, versions and the rate of a copy on it now."""
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
    """Bytes read plus written by a copy of 1 GiB, in GB/s."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = triton.testing.do_bench(lambda: target.copy_(source), return_mode="median")
    return round(2 * source.numel() / times / 1e6)


def append(rows: list[Row]) -> None:
    """Add rows to results.csv, or to the file that LAVIE_BENCH_RESULTS names."""
    path = Path(os.environ.get("LAVIE_BENCH_RESULTS", RESULTS))
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
