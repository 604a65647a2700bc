"""A run that is asked to stop: all ranks leave after the same step, whoever got the signal, and lose nothing."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from lavie.config.load import dump_yaml
from lavie.config.train import TrainConfig
from lavie.errors import DataError
from lavie.run_folder import checkpoints
from lavie.testing import free_port, run_distributed
from lavie.training import stop
from tests.nodes import BIN
from tests.training.runs import deepspeed_json, losses, make_config, records, weight_hashes

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
        time.sleep(stop.ECHO + 0.5)
        os.write(screen, b"\x03")
    shown += read_until(screen, None)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == (130 if again else 85), shown
    assert "Traceback" not in shown and shown.count("Ctrl-C") == 1
    assert ("asked to stop" in shown) != again
    assert len(checkpoints(tmp_path / "run")) == (0 if again else 1)


@pytest.mark.slow
@pytest.mark.parametrize("first, code", (("", -signal.SIGTERM), ("os.kill(os.getpid(), signal.SIGINT); " * 2, 7)))
def test_sigterm_ends_a_rank_unless_ctrl_c_came_before(first, code):
    """In the middle of what no Python code interrupts, and where the launcher passes Ctrl-C on twice."""
    program = "import ctypes, os, signal; from lavie.training import stop; stop.listen(); stop.catch_interrupts(); "
    program += first + "os.kill(os.getpid(), signal.SIGTERM); ctypes.CDLL(None).usleep(900_000); "
    program += "ctypes.CDLL(None).usleep(900_000); os._exit(7)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("Ctrl-C: the run saves after this step") == bool(first)


def fail(messages: list[str], late: float) -> str:
    """Fail as a rank of a group, the last rank later than the others, and return what it prints."""
    from lavie.launcher import launched_rank
    from lavie.training.deepspeed import init_distributed

    init_distributed()
    rank, printed = launched_rank().rank, io.StringIO()
    time.sleep(late if rank == len(messages) - 1 else 0)
    with redirect_stderr(printed):
        assert stop.report(DataError(messages[rank])) == stop.FAILED
    return printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "messages, printed",
    (
        (["a"] * 3, ["all 3 ranks: DataError: a\n", "", ""]),
        (["a", "b", "a"], ["ranks 0, 2: DataError: a\n", "rank 1: DataError: b\n", ""]),
    ),
)
def test_ranks_that_fail_alike_say_so_once(messages, printed):
    assert run_distributed(fail, 3, messages, 0.5) == printed


@pytest.mark.slow
def test_a_rank_that_fails_too_late_for_the_others_loses_no_message():
    """The first ranks have given up waiting, and the store of the group has ended with rank 0 or is about to."""
    first, *_, last = run_distributed(fail, 3, ["a", "a", "b"], 8)
    assert (first, last) == ("ranks 0-1: DataError: a\n", "rank 2: DataError: b\n")


def test_a_message_names_its_ranks(monkeypatch, capsys):
    """Without a group, and with a launcher whose numbers are wrong."""
    for rank, before in (("0", "rank 0: "), ("x", "")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "8")
        assert stop.report(DataError("a")) == stop.FAILED
        assert capsys.readouterr().err == f"{before}DataError: a\n"
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert stop.report(DataError("a")) == stop.FAILED
    assert capsys.readouterr().err == "DataError: a\n"


@pytest.mark.parametrize("ended", (True, False))
def test_without_a_group_another_rank_speaks_only_where_the_launcher_does_not_end_it(monkeypatch, capsys, ended):
    """It would end it if rank 0 had failed too, and had told why."""
    monkeypatch.setattr(stop, "_deaf", threading.Event())
    monkeypatch.setattr(stop, "ALONE", 20 if ended else 0.1)
    for name, value in (("RANK", "9"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "16")):
        monkeypatch.setenv(name, value)
    if ended:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    assert stop.report(DataError("a")) == stop.FAILED
    assert capsys.readouterr().err == ("" if ended else "rank 9: DataError: a\n")


@pytest.mark.slow
def test_a_mistake_on_the_command_line_is_told_once_by_torchrun_too():
    torchrun = (BIN / "torchrun", "--nproc-per-node", "2", "--master-port", str(free_port()), "-m", "lavie.train")
    done = subprocess.run([*torchrun, "configs/smoke/base.yaml", "learning_rat=1"], capture_output=True, text=True)
    assert done.stderr.count("ConfigError") == 1
    assert done.stderr.startswith("rank 0: ConfigError: ") and "unknown key learning_rat;" in done.stderr
    exit_codes = re.findall(r"exitcode *: (\d+)", done.stderr)
    assert set(exit_codes) == {str(stop.FAILED)}
