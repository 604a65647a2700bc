"""What runs recorded, read step by step; and the smoothing of it."""

import numpy as np
import pytest

from lavie.evaluation.run_records import Run, read_by_step, smoothed


def test_the_later_line_of_a_step_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 1, "loss": 1}\n{"step": 1, "lr": 0.1}\n')
    assert read_by_step(path) == {1: {"step": 1, "loss": 1, "lr": 0.1}, 2: {"step": 2, "loss": 2}}


def test_smoothing_keeps_a_line_straight_and_a_level():
    assert np.allclose(smoothed(np.full(50, 3.0)), 3)
    assert np.allclose(smoothed(np.arange(200.0))[10:-10], np.arange(200.0)[10:-10])


def test_smoothing_of_a_step_does_not_depend_on_the_length_of_the_run():
    losses = np.random.default_rng(0).random(1000)
    assert np.array_equal(smoothed(losses)[:180], smoothed(losses[:200])[:180])
    assert smoothed(losses)[600] == pytest.approx(losses[570:631].mean())


def test_a_series_has_the_finite_numbers_of_its_key():
    values = (1, 0.5, None, float("nan"), float("inf"), 10**400, "2", -3.0)
    run = Run("a", {step: {"step": step, "loss": value} for step, value in enumerate(values)}, {})
    steps, losses = run.series("loss")
    assert (steps.tolist(), losses.tolist()) == ([0, 1, 7], [1, 0.5, -3])
    assert [len(part) for part in run.series("lr")] == [0, 0] and run.keys == {"step", "loss"}
