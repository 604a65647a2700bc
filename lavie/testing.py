"""What tests and benchmarks share: tolerances, tiny configurations, and several ranks on one machine.

Nothing here is of the developers' packages, such as pytest: users run the benchmarks.
"""

import ctypes
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from .config.model import UNetConfig

SHARED = Path(os.environ.get("LAVIE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
"""Reference data beside the checkout: golden outputs, real clips. Tests that use it skip where it is absent."""

TOLERANCES = {
    # One operation or one small network against float64 or another implementation, as a relative L2 error.
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
    torch.float64: 1e-12,
}
GOLDEN_ATOL = 1e-4
"""Whole networks in float32 against the released ones; their own error against float64 is 9e-6."""
ORACLE_ATOL = 1e-5
"""Whole networks in float32 against diffusers' on the same weights."""


LOSS_RTOL = 1e-6
"""Losses of one run in float32 on another number of ranks, whose sums go in another order."""
KERNEL_LOSS_RTOL = 1e-4
"""Losses over 30 steps in float32 with other implementations of the operations: rounding, fed back step by step."""


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the L2 distance relative to the norm of `expected`, in float64."""
    expected = expected.double()
    return float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-300))


def check_operation(name: str, arguments: tuple, backward: str, backward_arguments: tuple) -> None:
    """Run torch.library.opcheck on the operation lavie::name, and on its backward, which has no gradient of its own."""
    torch.library.opcheck(getattr(torch.ops.lavie, name).default, arguments)
    utils = ("test_schema", "test_faketensor")
    torch.library.opcheck(getattr(torch.ops.lavie, backward).default, backward_arguments, test_utils=utils)


def tiny_unet(**changes: Any) -> UNetConfig:
    """Return the config of a base network of about 1 M parameters: two levels, every kind of block."""
    values = {
        "block_out_channels": (32, 64),
        "cross_attention": (True, False),
        "layers_per_block": 1,
        "num_attention_heads": 1,
        "cross_attention_dim": 24,
        "norm_num_groups": 8,
    }
    return UNetConfig(**{**values, **changes})


M_PERTURB = -6
"""The number by which glibc's mallopt (malloc.h) is told the byte that memory is filled with when it is allocated and
freed."""


@contextmanager
def memory_filled_with(byte: int) -> Iterator[None]:
    """Fill memory with `byte`, 1 to 254, or its complement, as long as nobody has written it: bugs of C code show."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_PERTURB, byte)
    try:
        yield
    finally:
        mallopt(M_PERTURB, 0)


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


RANK_IMPORTS = [
    __name__,
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "torch.utils.cpp_extension",
    "torch.utils.tensorboard",
    "lavie.training.trainer",
]
"""What the ranks' fork server imports, once for all: ZeRO takes Muon, and that the whole of torch's compiler;
DeepSpeed's engine takes setuptools through torch's extensions, and the trainer TensorBoard."""


def start_rank_server() -> None:
    """Start the process that the ranks are forked from, unless it runs; its imports go on after the return.

    A process has one fork server, whoever asks for it first: before a loader's workers do, call this.
    """
    forkserver.set_forkserver_preload(RANK_IMPORTS)
    before = os.environ.get("DS_ACCELERATOR")
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("DS_ACCELERATOR", None)
        if before is not None:
            os.environ["DS_ACCELERATOR"] = before


CAUSE_SECONDS = 1.0
"""Seconds that `run_distributed` waits, once a rank has failed, to hear whether another one has died before it."""


def run_distributed(function: Callable, world_size: int, *args: Any, timeout: float = 480) -> list[Any]:
    """Run `function(*args)` on `world_size` gloo ranks and return what each returned, by rank.

    `function` must be importable (module level); what it returns is pickled, and holds no tensors. No process of the
    ranks outlives the call. Raises AssertionError with the traceback of the first rank that failed, as soon as one has
    died without a word, or after `timeout` seconds.
    """
    start_rank_server()
    context, port = multiprocessing.get_context("forkserver"), free_port()
    ranks: list[Any] = []
    waiting: dict[Any, int] = {}
    results: dict[int, Any] = {}
    deadline = time.monotonic() + timeout

    try:
        # A pipe per rank: its result comes through it, and its end without one says that the rank has died.
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            ranks.append(context.Process(target=_rank_main, args=(sender, rank, world_size, port, function, args)))
            ranks[-1].start()
            sender.close()  # so that the rank's end is the only one, and its death the end of the file
            waiting[receiver] = rank

        failures: list[str] = []
        while waiting:
            ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for receiver in [r for r in waiting if r in ready]:
                rank = waiting.pop(receiver)
                try:
                    results[rank], error = receiver.recv()
                except EOFError:
                    # The others fail because of it, and may have been heard of before: it comes first.
                    failures.insert(0, f"rank {rank} failed:\nit died without a word")
                else:
                    failures += [f"rank {rank} failed:\n{error}"] if error else []
            if failures:
                deadline = min(deadline, time.monotonic() + CAUSE_SECONDS)
        assert not failures, failures[0]
        assert not waiting, f"ranks {sorted(waiting.values())} gave no result within {timeout} s"
    finally:
        # After a failure the others wait for the dead one, in vain.
        for process in ranks:
            _end(process, patience=10 if not waiting and len(results) == world_size else 0)
    return [results[rank] for rank in range(world_size)]


def _end(process: Any, patience: float) -> None:
    """Give a rank `patience` seconds to end in order, then kill what is left of it and of all that it started."""
    process.join(timeout=patience)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # nothing is left, or it has not yet become a group of its own
        process.kill()
    process.join()


def _rank_main(sender: Any, rank: int, world_size: int, port: int, function: Callable, args: tuple) -> None:
    """Be one rank: set what torch.distributed reads, run the function and send (result, None) or (None, traceback)."""
    os.setsid()  # what a rank starts (loader workers, their fork server) belongs to its group
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)

    try:
        sender.send((function(*args), None))
    except BaseException:
        sender.send((None, traceback.format_exc()))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
