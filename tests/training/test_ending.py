"""How a run ends: what it began is ended, in order, after success and errors alike; each rank leaves with its code."""

import multiprocessing
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lavie.config.train import TrainConfig
from lavie.errors import LavieError
from lavie.testing import run_distributed
from tests.training.runs import deepspeed_json, make_config


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, end",
    (
        ({}, "done"),
        ({"init_weights": "an empty folder"}, "CheckpointError"),  # after the loader's processes have started
        ({"learning_rate": 1e30, "max_train_steps": 9, "max_skipped_steps": 3}, "TrainingError"),
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


@pytest.mark.slow
def test_a_rank_that_fails_alone_does_not_wait_for_the_others():
    assert run_distributed(alone, 2)[0] < 3
