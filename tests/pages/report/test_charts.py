"""Which curves of a run, and of several, lie in which chart."""

import numpy as np
import pytest

from lavie.pages.report import charts
from lavie.pages.report.read import read
from tests.pages.report.folders import lines, some_run, step


@pytest.fixture
def one(tmp_path):
    return read([some_run(tmp_path / "one")])


@pytest.fixture
def two(tmp_path):
    return read([some_run(tmp_path / "one"), some_run(tmp_path / "two", steps=12)])


def labels(chart):
    return [curve.label for curve in chart.curves]


def test_the_loss_of_a_run_with_its_parts_and_its_resume(one):
    loss, norm = charts.loss_charts(one)
    assert labels(loss) == ["video + 0.25 image", "video", "image"]
    assert np.allclose(loss.curves[0].values, 1 / np.arange(1, 9)) and np.allclose(norm.curves[0].values, 1)
    assert loss.events == ((0, 4, "resumed after step 4"),)


def test_several_runs_lie_over_each_other(two):
    loss, _ = charts.loss_charts(two)
    assert labels(loss) == ["one: video + 0.25 image", "two: video + 0.25 image"]
    assert [(curve.run, curve.style, len(curve.steps)) for curve in loss.curves] == [(0, 0, 8), (1, 1, 12)]


def test_losses_that_add_up_otherwise_are_compared_by_the_clips(tmp_path):
    runs = read([some_run(tmp_path / "one"), some_run(tmp_path / "half", image_loss_weight=0.5)])
    loss, _ = charts.loss_charts(runs)
    assert labels(loss) == ["one: video", "half: video"] and loss.curves[0].values[0] == 0.8


def test_the_held_out_loss_by_timestep(two):
    whole, parts = charts.held_out_charts(two[:1])
    assert "averaged weights, mean of timesteps 125, 625" in whole.title
    assert labels(parts) == ["t = 125", "t = 625"]
    assert [list(curve.values) for curve in parts.curves] == [[8, 4], [2, 1]]
    _, low, high = charts.held_out_charts(two)
    assert (low.title, high.title) == ("Held-out loss at t = 125", "Held-out loss at t = 625")
    assert labels(high) == ["one", "two"] and list(high.curves[1].steps) == [0, 12]


def test_waiting_is_a_share_of_the_step(one):
    [wait] = [chart for chart in charts.speed_charts(one) if chart.title == "Waiting for data"]
    assert list(wait.curves[0].values) == [25] * 8


def test_shares_are_those_of_the_start_that_took_them(one):
    """From step 4 on, those of the second start; and none of steps that are still to come."""
    shares, epoch = charts.data_charts(one)
    assert labels(shares) == ["first"] and epoch.curves[0].values[-1] == 1
    assert list(zip(shares.curves[0].steps, shares.curves[0].values, strict=True)) == [(0, 50), (4, 75), (8, 25)]


def test_shares_that_somebody_has_edited_are_left_out(tmp_path):
    folder = some_run(tmp_path / "one")
    for odd in ([], {"steps": [0]}, {"steps": [0], "datasets": [{"name": 3, "kind": "videos", "shares": [1]}, 7]}):
        lines(folder / "events.jsonl", {"event": "facts", "step": 0, "shares": odd})
        shares, _ = charts.data_charts(read([folder]))
        assert not shares.drawn


def test_measures_lie_beside_those_of_held_out_clips(tmp_path):
    folder = some_run(tmp_path / "one")
    measured = {
        "eval_clips": 8,
        "eval_kvd": 2.0,
        "eval_kvd_error": 0.5,
        "eval_motion": 3.0,
        "eval_motion_held_out": 4.0,
    }
    lines(folder / "metrics.jsonl", step(1), {"step": 1, **measured})
    kvd, motion = charts.measured_charts(read([folder]))
    assert (kvd.title, labels(kvd), motion.title, labels(motion)) == (
        "kvd", ["samples"], "motion", ["samples", "held-out clips"]
    )  # fmt: skip
