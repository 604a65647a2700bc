"""Time an operation's ways against one another, on the GPU, in one run: checked first, then timed.

    python -m lavie.kernels.bench.<op> [--dtype bf16|fp16|fp32] [--only TEXT] [--dry-run] [--until TIME]

Every way runs on the same inputs, rotated through more memory than the cache holds; a time is the median of many runs.
Then each is captured in a CUDA graph, and timed without the host. The run measures the rate of a device copy itself;
shares are of that. Rows are appended to results.csv. A way that is wrong, runs out of memory or fails otherwise has the
reason there as its status, the rest goes on, and the exit code tells of it in the end; one that cannot be captured has
the reason as the status of its graphs, and is no failure.
`--dry-run` does all that on small shapes and keeps no times: it needs no GPU and catches what would fail on one. In
Triton's interpreter, where a pass takes seconds, it checks alone.
"""

import argparse
import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ..cost import Cost
from .check import Case, Checker, Errors
from .log import Log
from .machine import Gpu, Host, Machine, Row
from .timing import GRAPHS, PARTS, Measured, measure, measure_graphs, recorded

RESULTS = Path(__file__).with_name("results.csv")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FIELDS = (
    *("date", "gpu", "clocks", "torch", "triton", "op", "case", "dtype", "way", "part", "ms", "ratio"),
    *("gb_per_s", "tflop_per_s", "copy_gb_per_s", "share_of_copy", "peak_mib", "error", "status"),
)
OK = "ok"
"""The status of a way that was timed; any other says why it was not."""
MORE = 75
"""The exit code where time was up before all cases were done."""
OF_RESULTS = "LAVIE_BENCH_RESULTS"
"""The environment variable that names another file of results."""


def main(op: str, cases: Callable[[bool], Iterator[Case]]) -> None:
    """Run the command line of a benchmark."""
    parser = argparse.ArgumentParser(description=f"Benchmark of {op}.")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains it")
    parser.add_argument("--dry-run", action="store_true", help="keep no times; works without a GPU")
    parser.add_argument(
        "--until", type=float, metavar="TIME", help="seconds since 1970: begin no case that would take longer"
    )
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device: give --dry-run to check the benchmark without one")
    machine: Machine = Gpu() if torch.cuda.is_available() else Host()
    timed = os.environ.get("TRITON_INTERPRET") != "1"
    columns, log = machine.describe(), Log(results_file(), args.until) if args.until else None

    # Rows are appended case by case, so that a run that is cut short keeps what it has.
    failed = []
    for case in cases(args.dry_run):
        task = f"{op}, {case.name}, {args.dtype}"
        if args.only not in case.name or (log and not log.wants(task)):
            continue
        if log and not log.has_room():
            raise SystemExit(MORE)
        if log:
            log.begin(task)
        rows = run_case(op, case, machine, DTYPES[args.dtype], columns, args.dry_run, timed)
        wrong = [f"{row['case']}, {row['way']}" for row in rows if row["status"] != OK and row["part"] == "both"]
        if timed and (not args.dry_run or OF_RESULTS in os.environ):
            append(rows)
        if log:
            log.done(task, [f"{op}, {name}" for name in wrong])
        failed += wrong
    if log:
        log.done(op, [])
    if failed:
        raise SystemExit("\n  ".join([f"{op}: {len(failed)} of its ways failed:", *failed]))


def run_case(
    op: str,
    case: Case,
    machine: Machine,
    dtype: torch.dtype,
    columns: Row,
    dry: bool = False,
    timed: bool = True,
) -> list[Row]:
    """Check every way, then time those that are right; prints a line for each.

    Args:
        op: the benchmark.
        case: one of its cases.
        machine: what computes.
        dtype: of the leaves.
        columns: what `machine.describe` returned.
        dry: let torch.compile only trace.
        timed: time what is right.

    Returns:
        A row per way and part; those of a way that failed have nothing but a status.
    """
    print(f"{op}  {case.name}  {dtype}".replace("torch.", ""), flush=True)
    torch.compiler.reset()
    functions = {name: way.ready(dry) for name, way in case.ways.items()}
    ours = next(iter(functions))

    # First whether each way is right, then how long those that are right take.
    failures: dict[str, str] = {}
    uncaptured: dict[str, dict[str, str]] = {part: {} for part in GRAPHS}
    errors: dict[str, Errors] = {}
    measured: dict[str, Measured] = {}
    with recorded(failures, *functions, doing="the definition: "):
        checker = Checker(case, machine.device, dtype)
        for name, function in functions.items():
            with recorded(failures, name):
                errors[name] = checker.errors(case.ways[name], function, each=name == ours)
    if errors and timed:
        with recorded(failures, *errors):
            measured = measure(case, {name: functions[name] for name in errors}, machine, dtype, failures)
    if measured:
        whole: dict[str, str] = {}
        with recorded(whole, *measured):
            right = {name: functions[name] for name in measured}
            for name, times in measure_graphs(case, right, machine, dtype, uncaptured).items():
                measured[name].times.update(times)
        uncaptured = {part: {**whole, **reasons} for part, reasons in uncaptured.items()}

    rows = []
    for name in functions:
        common = {**columns, "op": op, "case": case.name, "dtype": str(dtype).removeprefix("torch."), "way": name}
        status = failures.get(name, OK)
        if status != OK:
            print(f"  {name:28} FAILED: {status}", flush=True)
        parts = [{**common, "part": part, "status": status} for part in PARTS]
        parts += [{**common, "part": part, "status": uncaptured[part].get(name, status)} for part in GRAPHS]
        if name in measured:
            for row in parts:
                if row["status"] == OK:
                    row |= numbers(case.cost, row["part"], measured[name], measured.get(ours), columns, dtype)
                row["error"] = f"{errors[name].worst:.1e}"
        if status == OK and (dry or name not in measured):
            print(f"  {name:28} error {errors[name].worst:.1e}", flush=True)
        elif status == OK:
            print(f"  {name:28}" + "".join(map(_cell, parts)) + f"  {measured[name].peak:.0f} MiB", flush=True)
        rows += parts
    return rows


def numbers(cost: Cost, part: str, way: Measured, ours: Measured | None, columns: Row, dtype: torch.dtype) -> Row:
    """Return the columns of a part that was timed; the ratio stays empty where ours was not."""
    ms = way.times[part]
    moved, flops = amounts(cost, part, dtype.itemsize)
    rate = moved / ms / 1e6
    return {
        "ms": f"{ms:.4f}",
        "ratio": f"{ms / ours.times[part]:.2f}" if ours and part in ours.times else "",
        "gb_per_s": f"{rate:.0f}",
        "tflop_per_s": f"{flops / ms / 1e9:.1f}",
        "share_of_copy": f"{rate / columns['copy_gb_per_s']:.2f}",
        "peak_mib": f"{way.peak:.0f}",
    }


def _cell(row: Row) -> str:
    """Return a part of a printed line: time, ratio to ours, share of a copy's rate; or why there is none."""
    if row["status"] != OK:
        return f"  {row['part']}: {row['status']}"
    ratio = f" x{row['ratio']}" if row["ratio"] else ""
    return f"  {row['part']} {row['ms']} ms{ratio} ({float(row['share_of_copy']):.0%} of copy)"


def amounts(cost: Cost, part: str, itemsize: int = 2) -> tuple[int, int]:
    """Return the floor bytes and FLOPs of a part, with elements of `itemsize` bytes."""
    moved = {"forward": cost.forward_bytes, "backward": cost.backward_bytes}
    flops = {"forward": cost.forward_flops, "backward": cost.backward_flops}
    part = part.partition(",")[0]  # a graph moves what its operations do
    parts = ("forward", "backward") if part == "both" else (part,)
    return sum(moved[p] for p in parts) * itemsize // 2, sum(flops[p] for p in parts)


def results_file() -> Path:
    """Return results.csv, or the file that LAVIE_BENCH_RESULTS names."""
    return Path(os.environ.get(OF_RESULTS, RESULTS))


def append(rows: list[Row]) -> None:
    """Add rows to the file of results."""
    path = results_file()
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
