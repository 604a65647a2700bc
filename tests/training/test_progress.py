"""What who watches a run reads: which steps get a line, the rates since the last one, and the time that is left."""

import re

import pytest
from rich.console import Console

from lavie.training import progress
from lavie.training.progress import Display, duration
from tests.training.runs import make_config

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def config(tmp_path, images=1, **changes):
    return make_config(tmp_path, tmp_path / "run", data={"num_images": images}, **changes)


def record(step, seconds, samples=8, wait=0.0, warms_up=False):
    losses = {"loss": 0.5, "loss_video": 0.4, "loss_image": 0.4}
    speed = {"seconds": seconds, "samples_per_s": None if warms_up else samples / seconds, "data_wait_s": wait}
    return {"step": step, "lr": 1e-4, **losses, **speed}


def steps(capsys):
    """The steps that have got a line since the last call."""
    return [int(found) for found in re.findall(r"step (\d+)/", capsys.readouterr().out)]


def test_lines_come_at_the_first_step_the_last_and_every_logging_steps(tmp_path, clock, capsys):
    display = Display(config(tmp_path, max_train_steps=18, logging_steps=5), start_step=6)
    for step in range(7, 19):
        clock.now += 1
        display.show(record(step, 1.0))
    assert steps(capsys) == [7, 10, 15, 18]


def test_slow_steps_get_a_line_each_minute(tmp_path, clock, capsys):
    display = Display(config(tmp_path, max_train_steps=1000, logging_steps=100), start_step=0)
    for step in range(1, 11):
        clock.now += 25
        display.show(record(step, 25.0))
    assert steps(capsys) == [1, 4, 7, 10]  # 75 s apart: 50 s are less than a minute


def test_rates_are_of_the_steps_since_the_last_line_and_the_time_left_of_all(tmp_path, clock, capsys):
    display = Display(config(tmp_path, max_train_steps=100, logging_steps=4), start_step=0)
    clock.now += 90  # it compiles
    display.show(record(1, 90.0, wait=80.0, warms_up=True))
    first = capsys.readouterr().out
    assert re.fullmatch(
        TIME + r"step 1/100  loss 0\.5000 \(video 0\.4000, images 0\.4000\)  lr 1\.00e-04  90\.00 s  warming up\n",
        first,
    )

    # Steps 2, 3, 4: 1, 2 and 3 s, of which 1.5 s are waited; before the last, 24 s of a save belong to no step.
    for step, seconds, more in ((2, 1.0, 0), (3, 2.0, 0), (4, 3.0, 24)):
        clock.now += seconds + more
        display.show(record(step, seconds, wait=0.5))
    # 6 s for 3 steps; 24 samples in 6 s; 1.5 of 6 s; 30 s for 3 steps after the first, times 96.
    assert "  2.00 s/step  4.0 samples/s  data wait 25%  16 min left\n" in capsys.readouterr().out

    # The next line knows nothing of those steps but for the time left: 40 s for 7 steps, times 92. Of a size that comes
    # first in step 6 only the time left has the time.
    for step, seconds in ((5, 1.0), (6, 7.0), (7, 1.0), (8, 1.0)):
        clock.now += seconds
        display.show(record(step, seconds, wait=0.0, warms_up=step == 6))
    assert "  1.00 s/step  8.0 samples/s  data wait 0%  9 min left\n" in capsys.readouterr().out


def test_the_time_left_begins_behind_all_steps_that_warm_up(tmp_path, clock, capsys):
    display = Display(config(tmp_path, max_train_steps=10, logging_steps=2), start_step=4)
    for step, seconds in ((5, 80.0), (6, 50.0), (7, 2.0), (8, 2.0)):
        clock.now += seconds
        display.show(record(step, seconds, warms_up=step <= 6))
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.endswith("80.00 s  warming up") and second.endswith("50.00 s  warming up")
    assert last.endswith("2.00 s/step  4.0 samples/s  data wait 0%  4 s left")


def test_clips_alone_have_one_loss_and_notes_have_their_time(tmp_path, clock, capsys):
    display = Display(config(tmp_path, images=0, max_train_steps=1), start_step=0)
    clock.now += 1
    display.show(record(1, 1.0))
    display.note("saved [x]/checkpoint-1")
    line, note = capsys.readouterr().out.splitlines()
    assert "  loss 0.5000  lr " in line and line.endswith("  0 s left")
    assert re.fullmatch(TIME + r"saved \[x\]/checkpoint-1", note)


def test_a_terminal_gets_a_bar_and_no_lines(tmp_path, monkeypatch, capsys):
    console = Console(force_terminal=True, width=160, record=True, markup=False, _environ={"TERM": "xterm"})
    monkeypatch.setattr(progress, "make_console", lambda: console)
    display = Display(config(tmp_path, max_train_steps=20), start_step=10)
    display.show(record(11, 9.0, warms_up=True))
    display.show(record(12, 2.0))
    display.note("saved")
    display.close()
    shown = console.export_text()
    assert "12/20" in shown and "4.0 samples/s" in shown and "saved" in shown
    assert "s/step" not in shown + capsys.readouterr().out


@pytest.mark.parametrize(
    "seconds, text",
    (
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3540, "59 min"),
        (3600, "1 h 0 min"),
        (8910, "2 h 28 min"),
        (23 * 3600, "23 h 0 min"),
        (24 * 3600, "1 d 0 h"),
        (51 * 3600, "2 d 3 h"),
    ),
)
def testdurations_have_two_units(seconds, text):
    assert duration(seconds) == text
