"""A run that is asked to stop: all ranks leave after the same step, whoever got the signal, and lose nothing."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lavie.config.load import dump_yaml
from lavie.run_folder import checkpoints, step_of
from lavie.testing import run_distributed
from lavie.training import signals, stop
from tests.training.launched import end_ranks, start_ranks
from tests.training.runs import deepspeed_json, losses, make_config, records, train, weight_hashes

STEPS = 8


def interrupt(rank: int, moments: dict[str, list[signal.Signals]], rank_asked: int | None) -> None:
    """Let a rank (all ranks for None) signal itself at some moments: "start", "step N" and "save N" are before them."""
    from lavie.training import trainer
    from lavie.training.checkpoint.saver import Saver

    def passed(moment: str) -> None:
        if rank_asked in (rank, None):
            for number in moments.get(moment, ()):
                os.kill(os.getpid(), number)
                time.sleep(0.3)  # as two, not as one

    load_buckets, save, step_of_run = trainer.load_buckets, Saver.save, trainer.Trainer._step
    trainer.load_buckets = lambda *arguments: (passed("start"), load_buckets(*arguments))[1]
    Saver.save = lambda self, step: (passed(f"save {step}"), save(self, step))[1]
    trainer.Trainer._step = lambda self, step: (passed(f"step {step}"), step_of_run(self, step))[1]


@pytest.mark.slow
def test_all_ranks_leave_after_the_same_step_and_the_run_goes_on_bit_for_bit(rendered, tmp_path):
    """One run, asked to stop at its start, in steps, in saves and at its last step, by each signal, once and twice."""
    settings = Path("configs/zero3.json").resolve()  # as users have it: its leaf modules need care when saved
    whole = make_config(rendered, tmp_path / "whole", max_train_steps=STEPS, checkpointing_steps=4)
    run_distributed(train, 2, whole, settings)
    config = whole.model_copy(update={"output_dir": str(tmp_path / "run"), "resume_from_checkpoint": "auto"})
    (tmp_path / "run.yaml").write_text(dump_yaml(config))
    words = [str(tmp_path / "run.yaml"), "--deepspeed", str(settings)]

    usr2, term, ctrl_c = signal.SIGUSR2, signal.SIGTERM, signal.SIGINT
    cases = (
        ({"start": [term]}, None, -term, None),  # there is nothing to save yet
        ({"start": [usr2]}, 0, stop.STOPPED, None),
        ({"step 2": [usr2, usr2]}, 1, stop.STOPPED, 2),
        ({"save 4": [term, term]}, 0, stop.STOPPED, 4),
        ({"step 5": [term], "save 5": [term, usr2]}, None, stop.STOPPED, 5),
        ({"step 6": [ctrl_c], "save 6": [term]}, None, stop.STOPPED, 6),
        ({f"step {STEPS}": [term]}, 1, 0, STEPS),  # too late to leave before it
        ({}, 0, 0, STEPS),  # a finished run has nothing to do
    )
    steps: set[int] = set()
    for number, (moments, rank, code, step) in enumerate(cases):
        log = tmp_path / f"{number}.log"
        assert end_ranks(start_ranks(words, 2, log, interrupt, moments, rank)) == [code] * 2, log.read_text()
        printed = log.read_text()
        assert "Traceback" not in printed and printed.count("asked to stop") == (code == stop.STOPPED)
        assert printed.count("Ctrl-C") == (step == 6)
        steps |= {step} if step else set()
        assert {step_of(folder) for folder in checkpoints(config.output_dir)} == steps
        assert not list(Path(config.output_dir).glob(".checkpoint-*"))
        assert [r["step"] for r in records(config)] == list(range(1, max(steps, default=0) + 1)) if code >= 0 else True
    assert losses(config) == losses(whole)
    assert weight_hashes(config, STEPS) == weight_hashes(whole, STEPS)


def hang(rank: int) -> None:
    """Let rank 1 stand still in its second step, and rank 0 get SIGTERM then."""
    from lavie.training import signals, trainer

    signals.GRACE = 2.0
    step_of_run = trainer.Trainer._step

    def step(self: trainer.Trainer, number: int) -> object:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM if rank == 0 else signal.SIGSTOP)
        return step_of_run(self, number)

    trainer.Trainer._step = step


@pytest.mark.slow
def test_a_rank_that_waits_for_one_that_hangs_ends_by_sigterm(rendered, tmp_path):
    config = make_config(rendered, tmp_path / "run", max_train_steps=3)
    (tmp_path / "run.yaml").write_text(dump_yaml(config))
    words = [str(tmp_path / "run.yaml"), "--deepspeed", str(deepspeed_json(tmp_path, 2))]
    ranks = start_ranks(words, 2, tmp_path / "log", hang)
    ranks[0].join(120)
    assert end_ranks(ranks, 0)[0] == -signal.SIGTERM
    printed = (tmp_path / "log").read_text()
    assert printed.count("SIGTERM: the ranks have not agreed to stop within") == 1 and "Traceback" not in printed


@pytest.mark.slow
def test_the_signal_waits_even_where_it_was_ignored_before_and_children_are_deaf_to_it():
    """As launch/rank.sh starts it, too; the child ends by its own exit code, not by the signal."""
    code = """
import os, signal, subprocess, sys
from lavie.training import signals
assert "torch" not in sys.modules, "listen() must come before torch's threads"
signals.listen()
child = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(1); raise SystemExit(7)"],
                         stdout=subprocess.PIPE)
child.stdout.readline()
os.kill(child.pid, signal.SIGUSR2)
os.kill(os.getpid(), signal.SIGUSR2)
assert signals.SIGNAL in signal.sigpending() and child.wait() == 7
"""
    for before in ("", "trap '' USR2;"):
        script = f'{before} exec "$0" -c "$1"'
        done = subprocess.run(["bash", "-c", script, sys.executable, code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def terminal(*command: str) -> tuple[int, int]:
    """Start a command on a terminal of its own, and return its process id and the terminal's other end."""
    pid, screen = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, os.environ | {"DS_ACCELERATOR": "cpu", "TERM": "dumb", "OMP_NUM_THREADS": "1"})
    return pid, screen


def read_until(screen: int, words: str | None, seconds: float = 400) -> str:
    """Return what a terminal shows until it shows some words, or until its processes are gone."""
    shown, deadline = "", time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            shown += os.read(screen, 65536).decode(errors="replace")
        except OSError:  # nobody writes to it any more
            break
        if words and words in shown:
            return shown
    assert words is None, shown
    return shown


@pytest.mark.slow
@pytest.mark.parametrize("again", (False, True))
def test_ctrl_c_saves_and_stops_and_a_second_one_ends_at_once(rendered, tmp_path, again):
    config = make_config(rendered, tmp_path / "run", max_train_steps=10_000, data={"num_workers": 1})
    (tmp_path / "run.yaml").write_text(dump_yaml(config))
    settings = deepspeed_json(tmp_path, 2)
    pid, screen = terminal(sys.executable, "train.py", str(tmp_path / "run.yaml"), "--deepspeed", str(settings))
    shown = read_until(screen, "/10000" if not again else "videos")  # in the middle of training, or of the start
    os.write(screen, b"\x03")
    shown += read_until(screen, "Ctrl-C: the run saves after this step")
    if again:
        time.sleep(signals.ECHO + 0.5)
        os.write(screen, b"\x03")
    shown += read_until(screen, None)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == (130 if again else 85), shown
    assert "Traceback" not in shown and shown.count("Ctrl-C") == 1
    assert ("asked to stop" in shown) != again
    assert len(checkpoints(tmp_path / "run")) == (0 if again else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "before, code, told",
    (
        ("", -signal.SIGTERM, ""),
        ("os.kill(os.getpid(), signal.SIGINT); " * 2, 7, "Ctrl-C: the run saves after this step"),
        ("signals.GRACE = 0.3; signals.begin([]); ", -signal.SIGTERM, "SIGTERM: the ranks have not agreed"),
        ("signals.GRACE = 30; signals.begin([]); ", 7, ""),
        ("signals.begin([other.pid]); ", 7, ""),
        ("signals.begin([other.pid]); other.kill(); time.sleep(0.2); ", -signal.SIGTERM, ""),
        ("signals.begin([other.pid]); signals.ignore_termination(); other.kill(); ", 7, ""),
        ("signals.GRACE = 0.3; signals.begin([]); signals.asked(); time.sleep(2); signals.asked(); ", 7, ""),
    ),
    ids=("start", "Ctrl-C", "hang", "patience", "others live", "another has ended", "agreed", "long steps"),
)
def test_sigterm_ends_a_rank_unless_it_may_still_save(before, code, told):
    """In the middle of what no Python code interrupts, and where the launcher passes Ctrl-C on twice."""
    program = "import ctypes, os, signal, subprocess, time; from lavie.training import signals; signals.listen(); "
    program += "signals.catch(); other = subprocess.Popen(['sleep', '9']); " + before
    program += "os.kill(os.getpid(), signal.SIGTERM); ctypes.CDLL(None).usleep(900_000); "
    program += "ctypes.CDLL(None).usleep(900_000); other.kill(); os._exit(7)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stderr.count(told or "SIGTERM") == bool(told)
