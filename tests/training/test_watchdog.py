"""Runs of two ranks that hang, each in its own way: within seconds the right rank, section and module are named.

Every rank leaves with the exit code of the cause, and no process is left.
"""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lavie.cluster.hang import Cause
from lavie.cluster.watchdog import BEAT
from lavie.config.train import TrainConfig
from lavie.testing import free_port, start_rank_server
from tests.training.runs import deepspeed_json, make_config

LIMIT = 3.0
"""Seconds that a rank may be at one thing in these runs, once it is warm."""
DIAGNOSIS = 10.0
"""Seconds after the limit within which a hang is named."""


@dataclass
class Ended:
    """How the ranks of a run ended."""

    codes: list[int | None]
    seconds: list[float]
    """How long each took to end after the fault."""
    printed: list[str]


def rank_main(folder: Path, rank: int, port: int, fault: Callable, config: TrainConfig, settings: Path) -> None:
    """Be one rank of a run, as train.py is one; the fault is put in when all is built."""
    os.setsid()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for stream in (1, 2):
        os.dup2(os.open(folder / f"rank{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    torch.set_num_threads(1)
    from lavie.training import stop
    from lavie.training.trainer import Trainer

    try:
        with Trainer(config, settings) as run:
            fault(run, rank, lambda: (folder / "fault").touch())
            code = 0 if run.fit() else stop.STOPPED
    except Exception as error:
        code = stop.report(error)
    stop.leave(code)


def run_with(fault: Callable, folder: Path, config: TrainConfig, stage: int = 3) -> Ended:
    """Train a run on two ranks, with a fault that hangs it, until both have ended."""
    start_rank_server()
    context, port, settings = multiprocessing.get_context("forkserver"), free_port(), deepspeed_json(folder, stage)
    ranks: list[Any] = [
        context.Process(target=rank_main, args=(folder, rank, port, fault, config, settings)) for rank in range(2)
    ]
    ended = Ended([None, None], [0.0, 0.0], ["", ""])
    try:
        for process in ranks:
            process.start()
        deadline, began = time.monotonic() + 240, 0.0
        while None in ended.codes and time.monotonic() < deadline:
            time.sleep(0.05)
            began = began or (time.monotonic() if (folder / "fault").exists() else 0.0)
            for rank, process in enumerate(ranks):
                if ended.codes[rank] is None and process.exitcode is not None:
                    ended.codes[rank], ended.seconds[rank] = process.exitcode, time.monotonic() - began
        left = [process.pid for process in ranks if process.exitcode is None]
    finally:
        for process in ranks:
            if process.pid and process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
            process.join()
    ended.printed = [(folder / f"rank{rank}").read_text() for rank in range(2)]
    print(*ended.printed, sep="\n---\n")
    assert not left, f"processes {left} are left"
    return ended


def hanging(rendered: Path, folder: Path, **changes: Any) -> TrainConfig:
    """A run whose ranks may be at most LIMIT seconds at one thing."""
    limits = {"start": 200, "first_step": 200, "step": LIMIT, "data": LIMIT, "save": LIMIT, "between": 200}
    return make_config(rendered, folder / "run", watchdog=limits, max_train_steps=4, **changes)


def end_in_step(run: Any, began: Callable, number: signal.Signals) -> None:
    """Let a signal come to this rank in a block in step 3, when it has left word of being there."""
    block = run.engine.module.mid_block.resnets[0]

    def send(*_: Any, **__: Any) -> None:
        time.sleep(2 * BEAT)
        began()
        os.kill(os.getpid(), number)

    in_step(run, 3, lambda: setattr(block, "forward", send))


def in_step(run: Any, number: int, act: Callable[[], None]) -> None:
    """Let something happen as a step begins."""
    train = run._step
    run._step = lambda step: (act() if step == number else None, train(step))[1]


def stopped(run: Any, rank: int, began: Callable, victim: int) -> None:
    """A rank is stopped in step 3."""
    if rank == victim:
        end_in_step(run, began, signal.SIGSTOP)


def first_stopped(run: Any, rank: int, began: Callable) -> None:
    """Rank 0, which keeps the store, is stopped in step 3."""
    stopped(run, rank, began, victim=0)


def second_stopped(run: Any, rank: int, began: Callable) -> None:
    """Rank 1 is stopped in step 3."""
    stopped(run, rank, began, victim=1)


def killed(run: Any, rank: int, began: Callable) -> None:
    """Rank 1 dies in step 3."""
    if rank == 1:
        end_in_step(run, began, signal.SIGKILL)


def starved(run: Any, rank: int, began: Callable) -> None:
    """The loader of rank 1 gives two batches and no more."""

    def batches() -> Any:
        yield next(whole)
        yield next(whole)
        began()
        time.sleep(1000)

    whole = run.batches
    if rank == 1:
        run.batches = batches()


def slow_disk(run: Any, rank: int, began: Callable) -> None:
    """Rank 1 does not come to the end of writing its part of the first checkpoint."""
    if rank == 1:
        run.saver._write_files = lambda *_: (began(), time.sleep(1000))


def diverged(run: Any, rank: int, began: Callable) -> None:
    """Rank 1 leaves a block out from step 3 on, whose weights rank 0 gathers."""
    block = run.engine.module.mid_block
    if rank == 1:
        in_step(run, 3, lambda: (began(), setattr(block, "forward", lambda hidden, *_, **__: hidden))[0])


def named(printed: str, *words: str) -> None:
    """Require the words in the lines of a diagnosis."""
    assert "the run hangs: " in printed, printed
    for word in words:
        assert re.search(word, printed), f"no {word} in\n{printed}"


LAST_SEEN = r"last seen in section step of step 3 for \d+ s in module mid_block.resnets.0"
"""What a rank left that did not answer."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, cause, teller, words",
    (
        (second_stopped, Cause.SILENT, 0, ("rank 1 does not answer", rf"rank 1 \(.*stopped, {LAST_SEEN}")),
        (first_stopped, Cause.SILENT, 1, ("rank 0 does not answer", rf"rank 0 \(.*stopped, {LAST_SEEN}")),
        (killed, Cause.LOST, 0, ("rank 1 has ended", rf"rank 1 \(.*gone, {LAST_SEEN}")),
        (starved, Cause.STARVED, None, ("rank 1 waits for data", r"rank 1 \(.*in section data of step 3")),
        (slow_disk, Cause.STORAGE, None, ("rank 1 does not come to the end of writing", r"rank 1 \(.*section save of")),
    ),
)
def test_a_hang_is_named(rendered, tmp_path, fault, cause, teller, words):
    ended = run_with(fault, tmp_path, hanging(rendered, tmp_path, checkpointing_steps=2 if fault is slow_disk else 9))
    named("".join(ended.printed) if teller is None else ended.printed[teller], *words, r"stack of rank [01] \(")
    lives = [rank for rank in range(2) if teller in (None, rank)]
    assert [ended.codes[rank] for rank in lives] == [cause] * len(lives)
    assert max(ended.seconds[rank] for rank in lives) < LIMIT + DIAGNOSIS


@pytest.mark.slow
def test_ranks_whose_ways_part_are_named_with_their_modules(rendered, tmp_path):
    ended = run_with(diverged, tmp_path, hanging(rendered, tmp_path))
    named("".join(ended.printed), "their ways have parted", r"rank 0 \(.*in module \S+", r"rank 1 \(.*in module \S+")
    assert ended.codes == [Cause.DIVERGED] * 2
    assert max(ended.seconds) < LIMIT + DIAGNOSIS
