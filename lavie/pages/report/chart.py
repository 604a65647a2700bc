"""Curves as SVG that needs no script: axes, grid, a faint line of all values, a thick one of the smoothed ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...evaluation.run_records import smoothed, spread
from ..markup import Markup, element, join

WIDTH, HEIGHT = 460, 250
"""Of a chart, in its own units: narrow, so that its letters can be read on a phone."""
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 26
"""The margins around the curves, in the same units."""
MOST_POINTS = 400
"""Points of a curve in the file: about one for each unit of its width."""
COLOURS, DASHES = 8, 3
"""Curves that colours tell apart, and styles of line for the next ones."""
STEEP = 4
"""The ratio of the largest to the smallest value from which on an axis is logarithmic, as in `lavie plot`."""
DIGITS = 5
"""Significant digits of a number that the page's script shows."""


@dataclass(frozen=True)
class Curve:
    """A curve of a chart."""

    label: str
    steps: np.ndarray
    """float64 (n,), ascending."""
    values: np.ndarray
    """float64 (n,), finite."""
    style: int = 0
    """Chooses the colour and the line."""
    run: int = 0
    """The number of its run, which the page can hide."""
    smooth: bool = False
    """Whether the values are smoothed, with all of them faint behind; else they are joined as they are."""
    marks: bool = False
    """Whether each value is marked: those of validation are few."""


@dataclass(frozen=True)
class Chart:
    """Some curves over the steps."""

    title: str
    curves: Sequence[Curve]
    unit: str = ""
    """Stands behind numbers."""
    logarithmic: bool = False
    """Whether the axis may be logarithmic, where the values ask for it."""
    from_zero: bool = False
    """Whether the axis begins at 0."""
    events: Sequence[tuple[int, int, str]] = ()
    """Run, step and a word for each vertical line."""

    @property
    def drawn(self) -> list[Curve]:
        """The curves that have a value."""
        return [curve for curve in self.curves if len(curve.steps)]


def figure(chart: Chart, number: int, span: tuple[float, float]) -> Markup:
    """Return a chart with its title and legend; where no curve has a value, words that say so.

    Args:
        chart: what is drawn.
        number: of the chart on its page, by which the script knows its numbers.
        span: the first and the last step of the axis.
    """
    title = element("h3", chart.title)
    if not chart.drawn:
        return element("figure", title, element("p", "not measured", class_="none"), class_="chart")
    legend = [
        element("li", _swatch(curve), f"{curve.label} ", element("b", _last(curve, chart.unit)), class_=_run(curve))
        for curve in chart.drawn
    ]
    missing = [curve.label for curve in chart.curves if not len(curve.steps)]
    legend += [element("li", f"{label}: not measured", class_="none") for label in missing]
    return element(
        "figure",
        title,
        _svg(chart, number, span),
        element("figcaption", element("ul", *legend, class_="legend"), element("p", class_="readout", role="status")),
        class_="chart",
    )


def numbers(chart: Chart, span: tuple[float, float]) -> dict[str, Any]:
    """Return what the page's script needs to tell the values at a step, as JSON holds it."""
    curves = []
    for curve in chart.drawn:
        steps, values = _thinned(*_line(curve))
        curves.append(
            {
                "label": curve.label,
                "run": curve.run,
                "steps": steps.astype(int).tolist(),
                "values": [float(f"{value:.{DIGITS}g}") for value in values],
            }
        )
    return {"span": list(span), "unit": chart.unit, "curves": curves}


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers in [low, high], about `count` of them, with steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def plain(value: float) -> str:
    """Return a number as it stands beside an axis or in a table: four digits, without a needless exponent."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _line(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and heights of the thick line."""
    return curve.steps, smoothed(curve.values) if curve.smooth else curve.values


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve with MOST_POINTS points at most, evenly spread, its two ends among them."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    at = np.unique(np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int))
    return steps[at], values[at]


def _extremes(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve of MOST_POINTS points at most that keeps the least and the largest value of every stretch."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    at = set()
    for part in np.array_split(np.arange(len(steps)), MOST_POINTS // 2):
        at |= {part[values[part].argmin()], part[values[part].argmax()]}
    order = np.array(sorted(at))
    return steps[order], values[order]


def _svg(chart: Chart, number: int, span: tuple[float, float]) -> Markup:
    """Return the picture of a chart that has curves."""
    lines = [_line(curve) for curve in chart.drawn]
    heights = [values for _, values in lines]
    log = chart.logarithmic and spread(heights) > STEEP
    low, high = _limits(chart, heights, log)

    def x(step: Any) -> Any:
        """Return the place of a step, or of an array of them."""
        return LEFT + (step - span[0]) / ((span[1] - span[0]) or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: Any) -> Any:
        """Return the height of a value, or of an array of them; what lies beyond the axis stays at its end."""
        value, ends = np.clip(value, low, high), (low, high)
        if log:
            value, ends = np.log(value), (math.log(low), math.log(high))
        return TOP + (ends[1] - value) / (ends[1] - ends[0]) * (HEIGHT - TOP - BOTTOM)

    parts: list[Markup] = []
    for value in _log_ticks(low, high) if log else ticks(low, high):
        height = round(float(y(value)), 1)
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height))
        parts.append(element("text", plain(value), class_="y", x=LEFT - 6, y=height + 4))
    for step in ticks(*span) if span[1] > span[0] else [span[0]]:
        if step == int(step):
            parts.append(element("text", plain(step), class_="x", x=round(x(step), 1), y=HEIGHT - 8))
    for run, step, word in chart.events:
        place = round(float(x(step)), 1)
        line = element("line", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM)
        parts.append(element("g", element("title", word), line, class_=f"event run-{run}"))
    for curve in chart.drawn:
        if curve.smooth:
            parts.append(_polyline(curve, "faint", *_extremes(curve.steps, curve.values), x, y))
    for curve, (steps, values) in zip(chart.drawn, lines, strict=True):
        parts.append(_polyline(curve, "thick", *_thinned(steps, values), x, y))
        if curve.marks or len(steps) == 1:
            for at, value in zip(steps, values, strict=True):
                cx, cy = round(float(x(at)), 1), round(float(y(value)), 1)
                parts.append(element("circle", cx=cx, cy=cy, r=2.6, class_=f"{_style(curve)} {_run(curve)}"))
    parts.append(element("line", class_="cursor", x1=LEFT, x2=LEFT, y1=TOP, y2=HEIGHT - BOTTOM, visibility="hidden"))
    told = "; ".join(f"{curve.label}: {_last(curve, chart.unit)}" for curve in chart.drawn)
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        tabindex="0",
        data_chart=str(number),
        data_left=LEFT / WIDTH,
        data_right=(WIDTH - RIGHT) / WIDTH,
        aria_label=f"{chart.title}, over steps {span[0]:g} to {span[1]:g}. Last values: {told}",
    )


def _limits(chart: Chart, heights: Sequence[np.ndarray], log: bool) -> tuple[float, float]:
    """Return the ends of the value axis: the thick lines decide, for a single step far off would press them flat."""
    low, high = float(min(map(np.min, heights))), float(max(map(np.max, heights)))
    if log:
        return low / 1.15, high * 1.15
    if chart.from_zero:
        low = min(low, 0.0)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - (0 if chart.from_zero and low == 0 else margin), high + margin


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten in [low, high], or the powers alone where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 300 else (1,)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in found if low <= value <= high]


def _polyline(curve: Curve, kind: str, steps: np.ndarray, values: np.ndarray, x: Any, y: Any) -> Markup:
    """Return a line of a curve."""
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x(steps), y(values), strict=True))
    return element("polyline", class_=f"{kind} {_style(curve)} {_run(curve)}", points=points)


def _swatch(curve: Curve) -> Markup:
    """Return the piece of line that stands before a curve's name."""
    line = element("line", x1=1, x2=23, y1=5, y2=5, class_=f"thick {_style(curve)}")
    return join(element("svg", line, viewBox="0 0 24 10", class_="swatch", aria_hidden="true"), " ")


def _last(curve: Curve, unit: str) -> str:
    """Return the last height of a curve's thick line, in words."""
    return f"{plain(float(_line(curve)[1][-1]))}{unit}"


def _style(curve: Curve) -> str:
    """Return the classes of a curve's colour and line."""
    return f"c{curve.style % COLOURS} d{curve.style // COLOURS % DASHES}"


def _run(curve: Curve) -> str:
    """Return the class by which a page hides a run."""
    return f"run-{curve.run}"
