"""run_distributed hands over results and errors, and leaves nothing running."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from lavie.distributed import gather_objects
from lavie.testing import run_distributed


def squares() -> list[int]:
    torch.distributed.init_process_group("gloo")
    return gather_objects(torch.distributed.get_rank() ** 2)


def test_results_come_by_rank():
    assert run_distributed(squares, 3) == [[0, 1, 4]] * 3


LOADERS = []  # what is never let go of


def with_children(folder: Path, ending: str) -> None:
    """Start processes and leave them to themselves; then rank 1 ends in the way asked for."""
    rank = int(os.environ["RANK"])
    (folder / f"rank{rank}").write_text(str(os.getpid()))
    subprocess.Popen(["sleep", "600"])
    torch.distributed.init_process_group("gloo")
    if ending == "returns":
        LOADERS.append(iter(DataLoader(range(1000), num_workers=2, multiprocessing_context="forkserver")))
        next(LOADERS[0])
        return
    torch.distributed.barrier()  # both have got this far
    if rank == 0:
        torch.distributed.barrier()  # for ever
    if ending == "raises":
        raise ValueError("its message")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ending, message",
    (
        ("returns", None),
        ("raises", "rank 1 failed:(?s:.*)its message"),
        ("is killed", "rank 1 failed:\nit died"),
    ),
)
def test_nothing_is_left_running(tmp_path, ending, message):
    began = time.monotonic()
    if message:
        with pytest.raises(AssertionError, match=message):
            run_distributed(with_children, 2, tmp_path, ending)
    else:
        assert run_distributed(with_children, 2, tmp_path, ending) == [None, None]
    assert time.monotonic() - began < 60  # no limit was waited for
    sessions = {int((tmp_path / f"rank{rank}").read_text()) for rank in range(2)}
    assert len(sessions) == 2
    for _ in range(50):  # the kernel takes its time
        left = [p for p in psutil.process_iter() if session_of(p) in sessions]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"still running: {left}")


def session_of(process: psutil.Process) -> int | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getsid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def test_a_time_limit_names_the_ranks():
    with pytest.raises(AssertionError, match=r"ranks \[0, 1\] gave no result within 1 s"):
        run_distributed(time.sleep, 2, 600, timeout=1)


def fails_beside_one_that_sleeps() -> None:
    if os.environ["RANK"] == "0":
        time.sleep(600)
    raise ValueError("its message")


def test_ranks_that_hear_of_no_failure_are_not_waited_for():
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"rank 1 failed:(?s:.*)its message"):
        run_distributed(fails_beside_one_that_sleeps, 2, timeout=300)
    assert time.monotonic() - began < 200  # the limit was not waited for
