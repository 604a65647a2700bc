"""What a process logs: with which level, and from when on."""

import io
import logging
import re
import sys

import pytest

from lavie import distributed
from lavie.distributed import log, setup_logging

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


class Stream(io.StringIO):
    """What stands for stderr: a terminal, or a file."""

    def __init__(self, terminal: bool):
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def level():
    """Sets the level back as loggers want it: they remember which lines they let pass, until setLevel is called."""
    before = log.level
    yield
    log.setLevel(before)


@pytest.mark.parametrize("terminal", (True, False))
@pytest.mark.parametrize(
    "group, rank, told", ((False, 0, "w e"), (True, 0, "i w e"), (True, 1, "e")), ids=("no group", "rank 0", "rank 1")
)
def test_lines_of_a_log_have_their_time_and_those_of_a_terminal_none(monkeypatch, level, terminal, group, rank, told):
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(distributed, "initialized", lambda: group)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    setup_logging()
    log.info("i")
    log.warning("w")
    log.error("e")
    lines = stream.getvalue().splitlines()
    stamp = "" if terminal else TIME
    assert len(lines) == len(told.split())
    for line, text in zip(lines, told.split(), strict=True):
        assert re.fullmatch(stamp + text, line)
