"""A lock that a killed compilation has left is taken over, and one that is held is waited for aloud."""

import logging
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from lavie.errors import ClusterError
from lavie.training import compilation
from lavie.training.compilation import STALE, lock_file, told_compilation


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """The lock's path, in a folder of extensions of its own."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return lock_file()


def make(lock, age: float, owner: str = "") -> None:
    lock.write_text(owner)
    os.utime(lock, (time.time() - age,) * 2)


def dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def is_held_back(lock, single_node: bool) -> bool:
    """Whether a start waits for the lock; one that does ends with the test, which deletes the lock."""
    entered = threading.Event()

    def start() -> None:
        with told_compilation(single_node):
            entered.set()

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    held_back = not entered.wait(1.5)
    lock.unlink(missing_ok=True)
    thread.join(30)
    assert entered.is_set()
    return held_back


@pytest.mark.parametrize("single_node, age", ((True, 7), (False, STALE + 7)))
def test_a_lock_without_an_owner_is_taken_over(lock, caplog, single_node, age):
    assert lock.parent.name == "deepspeed_shm_comm"
    make(lock, age)
    with told_compilation(single_node):
        assert not lock.exists()
    assert f"{lock} was left behind {age:.0f} s ago by a process that is not known, which is gone: taken" in caplog.text


def test_a_lock_whose_owner_on_this_host_is_dead_is_taken_over_though_other_nodes_share_it(lock, caplog):
    pid = dead_process()
    make(lock, 7, f"{socket.gethostname()} {pid}")
    with told_compilation(single_node=False):
        assert not lock.exists()
    assert f"left behind 7 s ago by process {pid} of {socket.gethostname()}, which is gone" in caplog.text


@pytest.mark.parametrize("owner, single_node", (("", False), ("another-host 7", False), ("another-host 7", True)))
def test_a_lock_that_another_node_may_hold_is_waited_for(lock, owner, single_node):
    make(lock, 7, owner)
    assert is_held_back(lock, single_node)


def test_a_held_lock_is_named_after_a_while(lock, monkeypatch, caplog):
    monkeypatch.setattr(compilation, "ANNOUNCE", 0.0)
    with lock.open("w"):
        make(lock, 1000)
        assert is_held_back(lock, True)
    assert f"compiling: waiting for {lock}, which process {os.getpid()} of this node holds" in caplog.text


def test_a_compilation_is_told_and_its_lock_is_signed(lock, monkeypatch, caplog, capfd):
    """The block takes the lock, as PyTorch does, and dies with it: the next start knows who that was."""
    monkeypatch.setattr(compilation, "ANNOUNCE", 0.0)
    caplog.set_level(logging.INFO, logger="lavie")
    signature = f"{socket.gethostname()} {os.getpid()}"
    with told_compilation(single_node=True):
        print("built")
        held = os.open(lock, os.O_CREAT | os.O_EXCL)
        deadline = time.monotonic() + 60
        while (lock.read_text() != signature or "compiling" not in caplog.text) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.close(held)
    assert lock.read_text() == signature
    assert f"compiling DeepSpeed's deepspeed_shm_comm in {lock.parent}" in caplog.text
    assert capfd.readouterr().out == ""


def test_a_lock_that_may_not_be_deleted_is_an_error_that_names_it(lock, monkeypatch):
    make(lock, 7)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(ClusterError, match=rf"{lock} was left behind .*may not delete it"), told_compilation(True):
        raise AssertionError("it would wait here")
