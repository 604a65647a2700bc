"""How a rank leaves: its message is printed once for all ranks that have it, and none is lost."""

import io
import os
import re
import signal
import subprocess
import time
from contextlib import redirect_stderr

import pytest

from lavie.errors import DataError
from lavie.testing import free_port, run_distributed
from lavie.training import signals, stop
from tests.nodes import BIN


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
    monkeypatch.setattr(signals, "_heard", signals._Heard())
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
