"""A lock that a killed compilation has left is refused, and one that is held is waited for aloud."""

import logging
import os
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


def make(lock, age: float) -> None:
    lock.touch()
    os.utime(lock, (time.time() - age,) * 2)


@pytest.mark.parametrize("single_node, age", ((True, 7), (False, STALE + 7)))
def test_a_lock_without_an_owner_is_refused_at_once(lock, single_node, age):
    assert lock.parent.name == "deepspeed_shm_comm"
    make(lock, age)
    message = rf"{lock} was left behind {age:.0f} s ago .*delete the file"
    with pytest.raises(ClusterError, match=message), told_compilation(single_node):
        raise AssertionError("it would wait here")


def test_a_lock_that_another_node_may_hold_is_waited_for(lock):
    make(lock, 7)
    with told_compilation(single_node=False):
        pass


def test_a_lock_that_is_held_is_named_after_a_while(lock, monkeypatch, caplog, capfd):
    monkeypatch.setattr(compilation, "ANNOUNCE", 0.0)
    monkeypatch.setattr(compilation, "PATIENCE", 0.0)
    caplog.set_level(logging.INFO, logger="lavie")
    named = f"still waiting for {lock}, which process {os.getpid()} holds"
    with lock.open("w"):
        make(lock, 1000)
        with told_compilation(single_node=True):
            print("built")
            deadline = time.monotonic() + 60
            while named not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.05)
    assert f"compiling DeepSpeed's deepspeed_shm_comm in {lock.parent}" in caplog.text and named in caplog.text
    assert capfd.readouterr().out == ""
