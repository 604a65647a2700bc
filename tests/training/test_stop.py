"""A run that is asked to stop: all ranks leave after the same step, whoever got the signal, and lose nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lavie.config.train import TrainConfig
from lavie.run_folder import checkpoints
from lavie.testing import run_distributed
from tests.training.runs import losses, make_config, records, weight_hashes

STEPS = 6


def stoppable(config: TrainConfig, settings: Path, when: str, rank_asked: int) -> tuple[bool, bool]:
    """Train, where one rank signals itself at some time; what `fit` returned, and whether SIGTERM is ignored then."""
    from lavie.launcher import launched_rank
    from lavie.training import stop, trainer

    stop.listen()

    def ask() -> None:
        if launched_rank().rank == rank_asked:
            os.kill(os.getpid(), signal.SIGUSR2)

    if when == "init":
        ask()
    run = trainer.Trainer(config, settings)
    if when.startswith("step "):
        train = run._step
        run._step = lambda step: (ask() if step == int(when[5:]) else None, train(step))[1]
    elif when == "save":
        save = trainer.save
        trainer.save = lambda *arguments: (ask(), save(*arguments))  # this process is the rank's own
    finished = run.fit()
    return finished, signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


@pytest.mark.slow
def test_all_ranks_leave_after_the_same_step_and_the_run_goes_on_bit_for_bit(rendered, tmp_path):
    """One run, asked to stop during its start, during a step, during a save and at the last step, by either rank."""
    settings = Path("configs/zero3.json").resolve()  # as users have it: its leaf modules need care when saved
    whole = make_config(rendered, tmp_path / "whole", max_train_steps=STEPS, checkpointing_steps=4)
    assert run_distributed(stoppable, 2, whole, settings, "never", 0) == [(True, False)] * 2
    config = whole.model_copy(update={"output_dir": str(tmp_path / "run"), "resume_from_checkpoint": "auto"})
    saved: list[int] = []
    for when, rank, step in (("init", 0, None), ("step 2", 1, 2), ("save", 0, 4), (f"step {STEPS}", 1, STEPS)):
        finished = when == f"step {STEPS}"  # too late to leave before it
        assert run_distributed(stoppable, 2, config, settings, when, rank) == [(finished, not finished)] * 2
        saved += [step] if step else []
        assert [int(path.name.split("-")[1]) for path in checkpoints(config.output_dir)] == saved
        assert [r["step"] for r in records(config)] == list(range(1, max(saved, default=0) + 1))
    assert losses(config) == losses(whole)
    assert weight_hashes(config, STEPS) == weight_hashes(whole, STEPS)
    # Started once more, a finished run has nothing to do.
    assert run_distributed(stoppable, 2, config, settings, "never", 0) == [(True, False)] * 2
    assert losses(config) == losses(whole)


@pytest.mark.slow
def test_the_signal_waits_even_where_it_was_ignored_before_and_children_are_deaf_to_it():
    """As launch/rank.sh starts it, too; the child ends by its own exit code, not by the signal."""
    code = """
import os, signal, subprocess, sys
from lavie.training import stop
assert "torch" not in sys.modules, "listen() must come before torch's threads"
stop.listen()
child = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(1); raise SystemExit(7)"],
                         stdout=subprocess.PIPE)
child.stdout.readline()
os.kill(child.pid, signal.SIGUSR2)
os.kill(os.getpid(), signal.SIGUSR2)
assert stop.SIGNAL in signal.sigpending() and child.wait() == 7
"""
    for before in ("", "trap '' USR2;"):
        script = f'{before} exec "$0" -c "$1"'
        done = subprocess.run(["bash", "-c", script, sys.executable, code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
