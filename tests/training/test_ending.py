"""How a run ends: what it began is ended, in order, after success and errors alike; each rank leaves with its code."""

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lavie.config import TrainConfig
from lavie.errors import LavieError
from lavie.testing import run_distributed

from .test_trainer import deepspeed_json, make_config

LATE_THREAD = """
import atexit, ctypes, os, sys, tempfile, time
from functools import partial
import torch
import torch.distributed as dist
from lavie.training import deepspeed, stop

deepspeed.end_distributed = lambda: False  # as where it cannot end the group in time

def join(rank):
    store = dist.FileStore(f"{folder}/{leave}", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    dist.barrier()

def first():
    join(0)
    # What runs last before the interpreter is finalized, and gives no thread the GIL: the other rank is called, then
    # has two seconds for its part. C functions: after a line of Python, whoever waits for the GIL would get it.
    atexit.register(ctypes.PyDLL(None).usleep, 2_000_000)
    atexit.register(os.write, call, b"now")
    tensor = torch.ones(1000)
    sys.modules["kept"] = tensor, dist.group.WORLD  # as DeepSpeed keeps them
    dist.all_reduce(tensor, async_op=True)
    leave(7)

def second():
    join(1)
    os.read(called, 3)
    time.sleep(0.3)
    dist.all_reduce(torch.ones(1000))
    time.sleep(3)
    os._exit(0)

folder = tempfile.mkdtemp(dir=sys.argv[1])
for leave in (sys.exit, stop.leave):
    called, call = os.pipe()
    ranks = []
    for rank in (first, second):
        ranks.append(os.fork())
        if not ranks[-1]:
            rank()
    print(*(os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks))
"""
"""Two ranks, of which one ends while a thread of its process group is about to let go of a collective's tensors."""


def left(config: TrainConfig, settings: Path) -> tuple[str, list[str], int, bool]:
    """How a run ended, and what is left of it: Python's threads, the processes, whether there is a process group."""
    from lavie.training.deepspeed import end_distributed
    from lavie.training.trainer import Trainer

    try:
        with Trainer(config, settings) as trainer:
            end = "done" if trainer.fit() else "stopped"
    except LavieError as error:
        end = type(error).__name__
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    assert end_distributed()
    return end, threads, len(multiprocessing.active_children()), dist.is_initialized()


@pytest.mark.parametrize(
    "changes,end",
    (
        ({}, "done"),
        ({"init_weights": "an empty folder"}, "CheckpointError"),  # after the loader's processes have started
        ({"learning_rate": 1e30, "max_train_steps": 9}, "TrainingError"),
    ),
)
def test_nothing_is_left(rendered, tmp_path, changes, end):
    if "init_weights" in changes:
        changes = {"init_weights": str(tmp_path)}
    config = make_config(rendered, tmp_path / "run", **{"max_train_steps": 1, "data": {"num_workers": 1}} | changes)
    assert run_distributed(left, 2, config, deepspeed_json(tmp_path, 3)) == [(end, [], 0, False)] * 2


def alone() -> float:
    """Leave while a collective of this rank's own waits for the other, and return the seconds that took."""
    from lavie.training.deepspeed import end_distributed, init_distributed

    init_distributed()
    dist.barrier()
    if dist.get_rank():
        time.sleep(4)
        return 0.0
    dist.all_reduce(torch.ones(1), async_op=True)
    began = time.monotonic()
    assert not end_distributed(patience=0.5)
    return time.monotonic() - began


def test_a_rank_that_fails_alone_does_not_wait_for_the_others():
    assert run_distributed(alone, 2)[0] < 3


def test_no_thread_of_a_collective_turns_the_exit_code_into_an_abort(tmp_path):
    """Python's own exit comes first: what aborts is there, and where it is no more `leave` need not be as it is."""
    done = subprocess.run([sys.executable, "-c", LATE_THREAD, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == [f"{-signal.SIGABRT} 0", "7 0"], done.stderr[-2000:]
    assert "terminate called without an active exception" in done.stderr
