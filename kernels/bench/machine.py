"""What a benchmark runs on: a GPU with its own clock, or the host in its place when a dry run has no GPU."""

import datetime
import subprocess
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
import triton

CYCLES = 2e9
"""Cycles of a GPU's clock in a second, about: the clocks of those of the last years lie below it."""

Row = dict[str, Any]
Replay = Callable[[], object]


class Mark(Protocol):
    """A moment in a machine's work."""

    def elapsed_time(self, later: Any) -> float:
        """Return the milliseconds from here to a later mark."""


class Machine(Protocol):
    """What is timed, and by which clock."""

    device: torch.device
    warm_up: int
    """Runs of a way before those that count."""
    runs: int
    """Runs of a way that count."""

    def describe(self) -> Row:
        """Return the columns that all rows of a run share: date, GPU, clocks, versions, and the rate of a copy now."""

    def cache_bytes(self) -> int:
        """Return the size of the largest cache."""

    def synchronize(self) -> None:
        """Wait until all work is done."""

    def begin_peak(self) -> None:
        """Let `peak_mib` count from here."""

    def peak_mib(self) -> float:
        """Return the most MiB above what was allocated at `begin_peak`."""

    def sleep(self, seconds: float) -> None:
        """Let the work that follows wait for some time, while the host goes on."""

    def mark(self) -> Mark:
        """Return a mark behind the work so far."""

    def new_pool(self) -> Any:
        """Return a pool of memory for captured passes that run one after the other and whose results nobody reads."""

    def capture(self, run: Callable[[], object], pool: Any) -> Replay:
        """Record what `run` launches, and return what launches all of it at once."""


class Gpu:
    """A GPU."""

    warm_up, runs = 5, 50

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        self._before = 0
        torch.backends.cudnn.allow_tf32 = False  # a reference in float32 is meant to be that

    def describe(self) -> Row:
        """Return the columns that all rows of a run share."""
        query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader", "--id=0"]
        try:
            clocks = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().replace(",", " /")
        except (OSError, subprocess.CalledProcessError):
            clocks = "unknown"
        source = torch.empty(2**30, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        milliseconds = triton.testing.do_bench(lambda: target.copy_(source), return_mode="median")
        return _row(torch.cuda.get_device_name(self.device), clocks, 2 * source.numel() / milliseconds / 1e6)

    def cache_bytes(self) -> int:
        """Return the size of the level-2 cache."""
        return torch.cuda.get_device_properties(self.device).L2_cache_size

    def synchronize(self) -> None:
        """Wait until all work is done."""
        torch.cuda.synchronize()

    def begin_peak(self) -> None:
        """Let `peak_mib` count from here."""
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    def peak_mib(self) -> float:
        """Return the most MiB above what was allocated at `begin_peak`."""
        return (torch.cuda.max_memory_allocated() - self._before) / 2**20

    def sleep(self, seconds: float) -> None:
        """Let the GPU wait, while launches queue up behind."""
        torch.cuda._sleep(int(CYCLES * seconds))

    def mark(self) -> Mark:
        """Return an event behind the work so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def new_pool(self) -> Any:
        """Return a pool of memory; as nobody reads results, each graph may write over those of the others."""
        return torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], object], pool: Any) -> Replay:
        """Record a CUDA graph, after runs on another stream: what is only set up once must not be in it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
            run()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            run()
        return graph.replay


class Moment(float):
    """A reading of the host's clock, in seconds."""

    def elapsed_time(self, later: float) -> float:
        """Return the milliseconds from here to a later one."""
        return max(1e3 * (later - self), 1e-6)


class Host:
    """The host in the place of a GPU, so that a dry run goes through all that a benchmark does; its times are none."""

    warm_up, runs = 0, 1

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def describe(self) -> Row:
        """Return the columns that all rows of a run share."""
        source = torch.empty(2**20, dtype=torch.uint8)
        began = self.mark()
        source.clone()
        return _row("host", "none", 2 * source.numel() / began.elapsed_time(self.mark()) / 1e6)

    def cache_bytes(self) -> int:
        """Return a cache that one set of inputs fills."""
        return 0

    def synchronize(self) -> None:
        """Return at once: the host's work is done when it returns."""

    def begin_peak(self) -> None:
        """Count nothing."""

    def peak_mib(self) -> float:
        """Return 0."""
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Return at once."""

    def mark(self) -> Mark:
        """Return the time."""
        return Moment(time.perf_counter())

    def new_pool(self) -> Any:
        """Return nothing: the host has no pools."""
        return None

    def capture(self, run: Callable[[], object], pool: Any) -> Replay:
        """Return `run`."""
        return run


def _row(gpu: str, clocks: str, copy_gb_per_s: float) -> Row:
    """Return the columns that all rows of a run share."""
    return {
        "date": datetime.date.today().isoformat(),
        "gpu": gpu,
        "clocks": clocks,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "copy_gb_per_s": max(1, round(copy_gb_per_s)),
    }
