"""A chart says what its numbers are: lines lie where the values are, and what has none is told in words."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from lavie.evaluation.run_records import smoothed
from lavie.pages.report.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Curve,
    figure,
    numbers,
    plain,
    ticks,
)

STEPS = np.arange(1.0, 9.0)


def curve(values, **options):
    values = np.array(values, dtype=float)
    return Curve("loss", np.arange(1.0, len(values) + 1), values, **options)


def shown(chart, span=(1.0, 8.0)):
    """The elements of a chart, by their name and classes."""
    tree = ElementTree.fromstring(re.sub(r"<(img|br|input)([^>]*)>", r"<\1\2/>", figure(chart, 3, span)))
    return [(node.tag, set(node.get("class", "").split()), node) for node in tree.iter()]


def points(chart, kind="thick", span=(1.0, 8.0)):
    [line] = [node for tag, classes, node in shown(chart, span) if tag == "polyline" and kind in classes]
    return np.array([pair.split(",") for pair in line.get("points").split()], dtype=float)


def test_a_line_lies_where_its_values_are():
    values = [0, 1, 2, 3, 4, 6, 8, 10]
    chart = Chart("title", [curve(values)])
    drawn = points(chart)
    assert np.allclose(np.diff(drawn[:, 0]), (WIDTH - LEFT - RIGHT) / 7, atol=0.11)
    # The distance of two lines of the grid is that of their numbers.
    grid = [float(node.get("y1")) for tag, classes, node in shown(chart) if "grid" in classes]
    labels = [float(node.text) for tag, classes, node in shown(chart) if tag == "text" and "y" in classes]
    scale, zero = np.polyfit(labels, grid, 1)
    assert np.allclose(drawn[:, 1], zero + scale * np.array(values), atol=0.2)
    assert drawn[:, 1].min() > TOP and drawn[:, 1].max() < HEIGHT - BOTTOM


def test_a_logarithmic_axis_is_chosen_by_the_values():
    steep, flat = [1, 10, 100, 1000], [1, 1.1, 1.2, 1.3]
    assert np.allclose(
        np.diff(points(Chart("", [curve(steep)], logarithmic=True), span=(1, 4))[:, 1], n=2), 0, atol=0.2
    )
    assert not np.allclose(np.diff(points(Chart("", [curve(steep)]), span=(1, 4))[:, 1], n=2), 0, atol=1)
    assert np.allclose(np.diff(points(Chart("", [curve(flat)], logarithmic=True), span=(1, 4))[:, 1], n=2), 0, atol=0.2)
    assert points(Chart("", [curve([0.0, 5.0])], logarithmic=True), span=(1, 2)).shape == (2, 2)  # no logarithm of 0


def test_smoothed_values_lie_over_all_of_them_and_no_spike_is_lost():
    values = np.ones(5000)
    values[3210] = 50.0
    chart = Chart("", [curve(values, smooth=True)])
    faint, thick = (points(chart, kind, (1.0, 5000.0)) for kind in ("faint", "thick"))
    assert len(faint) <= MOST_POINTS and len(thick) <= MOST_POINTS
    assert faint[:, 1].min() == pytest.approx(TOP)  # at the top: the axis is that of the smoothed line
    [told] = numbers(chart, (1.0, 5000.0))["curves"]
    at = np.array(told["steps"]) - 1
    assert np.allclose(told["values"], smoothed(values)[at], rtol=1e-4) and at[0] == 0 and at[-1] == 4999


def test_what_has_no_value_is_told():
    empty = Curve("other", np.zeros(0), np.zeros(0))
    assert "not measured" in figure(Chart("title", [empty]), 0, (0, 1))
    assert "<svg" not in figure(Chart("title", []), 0, (0, 1))
    assert "other: not measured" in figure(Chart("title", [curve([1, 2]), empty]), 0, (0, 2))


def test_one_step_can_be_drawn():
    chart = Chart("title", [curve([0.5])])
    assert [node for tag, _, node in shown(chart, (1.0, 1.0)) if tag == "circle"]
    assert "nan" not in figure(chart, 0, (1.0, 1.0)) and "inf" not in figure(chart, 0, (1.0, 1.0))


def test_a_chart_says_in_words_what_it_shows():
    [svg] = [
        node for tag, _, node in shown(Chart("Loss", [curve([3, 2, 1])], unit=" GiB")) if node.get("role") == "img"
    ]
    assert svg.get("aria-label") == "Loss, over steps 1 to 8. Last values: loss: 1 GiB"
    assert svg.get("tabindex") == "0" and svg.get("data-chart") == "3"


@pytest.mark.parametrize(
    "low, high, wanted",
    (
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.13, 0.41, [0.2, 0.3, 0.4]),
        (0, 1100, [0, 500, 1000]),
        (-3, 2, [-3, -2, -1, 0, 1, 2]),
        (2e-4, 1e-3, [2e-4, 4e-4, 6e-4, 8e-4, 1e-3]),
    ),
)
def test_ticks_are_round_and_inside(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)


def test_numbers_stand_as_people_write_them():
    told = [plain(value) for value in (0, 0.5, 1234, 12345, 1e-3, 2e-5, 3e7, -0.25)]
    assert told == ["0", "0.5", "1234", "12,345", "0.001", "2e-05", "3e+07", "-0.25"]
