"""The times of a case's ways: launch by launch, and captured as one graph, so that the host has no part in them.

Launch by launch inputs rotate through more memory than the cache holds. A graph knows one set of inputs, so before
each replay as much memory is written in their place.
"""

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .check import Case
from .machine import Machine, Replay

PARTS = ("forward", "backward", "both")
GRAPHS = ("forward, graph", "both, graph")
"""The parts that are captured."""
CACHE_FACTOR = 3
"""Input sets together are this many times the level-2 cache."""
SHORTEST, MARGIN = 2e-3, 1.5
"""Seconds for which the GPU waits before a pass at least, and how many times what the host took to launch the last."""
GRAPH_WAIT = 10e-3
"""Seconds for which the GPU waits before a graph: the host launches thousands of operations in less."""
LONGEST_STATUS = 240

Function = Callable[..., Tensor]


class Sample(NamedTuple):
    """One run of a way."""

    forward: float
    backward: float
    """Milliseconds."""
    peak: float
    """MiB above what was allocated before."""


class Measured(NamedTuple):
    """What the runs of a way came to."""

    times: dict[str, float]
    """The median milliseconds of each part."""
    peak: float
    """The most MiB above what was allocated before."""


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


def input_sets(case: Case, machine: Machine, dtype: torch.dtype) -> list[list[Tensor]]:
    """Return enough sets of leaves to overflow the cache before one comes round again."""
    first = case.make(machine.device, dtype)
    size = sum(t.numel() * t.element_size() for t in first)
    more = min(31, max(1, CACHE_FACTOR * machine.cache_bytes() // size))
    return [first, *(case.make(machine.device, dtype) for _ in range(more))]


def measure(
    case: Case, functions: dict[str, Function], machine: Machine, dtype: torch.dtype, failures: dict[str, str]
) -> dict[str, Measured]:
    """Return the median times of a case's ways and the most memory each took, but for ways it adds to `failures`.

    The ways take turns, run by run, so that clocks and heat treat them alike.
    """
    # By way: its input sets in the layout that it wants, the output's gradient, and the runs so far.
    sets = input_sets(case, machine, dtype)
    laid: dict[str, list[list[Tensor]]] = {}
    gradients: dict[str, Tensor] = {}
    samples: dict[str, list[Sample]] = {name: [] for name in functions}
    host = dict.fromkeys(functions, 0.0)

    # Runs below 0 warm up. A way that fails leaves the rotation, and its memory with it.
    for run in range(-machine.warm_up, machine.runs):
        for name in [*samples]:
            with recorded(failures, name):
                if name not in laid:
                    laid[name] = [case.ways[name].lay(leaves) for leaves in sets]
                    gradients[name] = torch.randn_like(functions[name](*laid[name][0]))
                leaves = laid[name][run % len(sets)]
                sample, host[name] = time_once(machine, functions[name], leaves, gradients[name], host[name])
                if run >= 0:
                    samples[name].append(sample)
            if name in failures:
                for kept in (laid, gradients, samples):
                    kept.pop(name, None)

    return {name: medians(runs) for name, runs in samples.items()}


def medians(samples: list[Sample]) -> Measured:
    """Return the median of each time, and the largest peak."""
    columns = zip(*((s.forward, s.backward, s.forward + s.backward) for s in samples), strict=True)
    return Measured(dict(zip(PARTS, map(statistics.median, columns), strict=True)), max(s.peak for s in samples))


def time_once(
    machine: Machine, function: Function, leaves: list[Tensor], gradient: Tensor, host: float
) -> tuple[Sample, float]:
    """Run forward and backward once, timed by the machine's clock.

    Args:
        machine: what computes.
        function, leaves, gradient: what is run, and the gradient of its output.
        host: seconds that the host takes to launch the longer of the two; the GPU waits for longer than that.

    Returns:
        The times, and the seconds that the host took this time.
    """
    wanted = [t for t in leaves if t.requires_grad]
    machine.synchronize()
    machine.begin_peak()

    # Sleeps that outlast the host's work, so that launches queue up behind them and no gap is timed. A whole network
    # has thousands of launches, which take the host longer than the GPU's work may.
    wait = max(SHORTEST, MARGIN * host)
    began = time.perf_counter()
    machine.sleep(wait)
    before = machine.mark()
    y = function(*leaves)
    forward = machine.mark()
    between = time.perf_counter()
    machine.synchronize()
    machine.sleep(wait)
    again = time.perf_counter()
    rested = machine.mark()
    torch.autograd.grad(y, wanted, gradient)
    backward = machine.mark()
    host = max(between - began, time.perf_counter() - again)
    machine.synchronize()

    sample = Sample(before.elapsed_time(forward), rested.elapsed_time(backward), machine.peak_mib())
    return sample, host


def measure_graphs(
    case: Case,
    functions: dict[str, Function],
    machine: Machine,
    dtype: torch.dtype,
    failures: dict[str, dict[str, str]],
) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of each of GRAPHS of a case's ways.

    Args:
        case: what is timed.
        functions: what `ready` returned, of the ways that are right.
        machine: what computes.
        dtype: of the leaves.
        failures: by part and way; those that cannot be captured, or fail, are added.
    """
    made, pool = case.make(machine.device, dtype), machine.new_pool()
    fill = torch.empty(max(1, CACHE_FACTOR * machine.cache_bytes()), dtype=torch.uint8, device=machine.device)
    replays: dict[tuple[str, str], Replay] = {}
    for name, function in functions.items():
        leaves = case.ways[name].lay(made)
        for part in GRAPHS:
            with recorded(failures[part], name):
                backward = part == GRAPHS[1]
                gradient = torch.randn_like(function(*leaves)) if backward else None
                replays[name, part] = machine.capture(partial(_pass, function, leaves, gradient), pool)

    times: dict[tuple[str, str], list[float]] = {key: [] for key in replays}
    for run in range(-machine.warm_up, machine.runs):
        for name, part in [*replays]:
            with recorded(failures[part], name):
                milliseconds = time_replay(machine, replays[name, part], fill)
                if run >= 0:
                    times[name, part].append(milliseconds)
            if name in failures[part]:
                for kept in (replays, times):
                    kept.pop((name, part), None)

    result: dict[str, dict[str, float]] = {}
    for (name, part), of_runs in times.items():
        result.setdefault(name, {})[part] = statistics.median(of_runs)
    return result


def _pass(function: Function, leaves: list[Tensor], gradient: Tensor | None) -> None:
    """Run forward, and backward too if the output has a gradient; nothing is kept."""
    y = function(*leaves)
    if gradient is not None:
        torch.autograd.grad(y, [t for t in leaves if t.requires_grad], gradient)


def time_replay(machine: Machine, replay: Replay, fill: Tensor) -> float:
    """Return the milliseconds of a captured pass, with the inputs out of the cache, in whose place `fill` is."""
    machine.synchronize()
    fill.zero_()
    machine.sleep(GRAPH_WAIT)
    before = machine.mark()
    replay()
    after = machine.mark()
    machine.synchronize()
    return before.elapsed_time(after)
