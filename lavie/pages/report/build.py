"""The report of a run, or of several beside each other, as one file: it loads nothing, and needs no script to be read.

Its style and its script lie beside this file, and the page's policy lets nothing else run. The script adds what needs
one: the player of all clips, and the values under the pointer.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ...distributed import is_main, log
from ...files import replacing
from ...run_folder import REPORT, RUN_CONFIG
from ..markup import Content, Markup, element, hashed_policy, join
from . import charts, samples, tables
from .chart import Chart, figure, numbers
from .read import Seen, read, results_in

LIMIT = 20_000_000
"""Bytes of the file at most: beyond, clips are links to the run's own files."""


def write_report(runs: Sequence[str | Path], out: str | Path, results: Sequence[str | Path] = ()) -> Path:
    """Write the report of runs, whole or not at all, and return its path; its folder is created if missing.

    Args:
        runs: folders of runs, finished or going on.
        out: the file.
        results: results of `lavie eval` that lie elsewhere than in the runs, or folders of such.

    Raises:
        ConfigError: one of the runs is none, or is given twice.
        DataError: one of the results is none.
    """
    out = Path(out)
    seen = read([Path(run) for run in runs])
    others = [found for place in results for found in results_in(Path(place))]
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        partial.write_bytes(page(seen, out.parent, others).encode("utf-8", "replace"))
    return out


def write_last_report(run: str | Path) -> None:
    """Write the report of a run that has ended, on rank 0. What fails is told in a line, and changes nothing."""
    if not is_main():
        return
    try:
        log.info(f"report: {write_report([run], Path(run) / REPORT)}")
    except Exception as error:  # the run itself is done, whatever a report makes of its files
        told = " ".join(str(error).split())
        log.warning(f"no report was written ({type(error).__name__}: {told}): lavie report {run} writes it later")


def page(runs: Sequence[Seen], beside: Path, results: Sequence[tuple[Path, dict[str, Any]]] = ()) -> str:
    """Return the report of runs.

    Args:
        runs: what their folders show.
        beside: the folder of the page, to which links are relative if the clips do not fit into it.
        results: those of other places than the runs.
    """
    grid = samples.Grid(runs)
    if grid.size() * 4 / 3 < LIMIT:  # Base64 writes three bytes as four letters
        text = _page(runs, samples.section(grid, None), results)
        if len(text.encode("utf-8", "replace")) <= LIMIT:
            return text
    return _page(runs, samples.section(grid, beside), results)


def policy(script: str, style: str) -> str:
    """Return the Content-Security-Policy: this script and style, and clips in the page or beside it."""
    return hashed_policy(script, style, "media-src data: 'self'", "img-src data: 'self'")


def _page(runs: Sequence[Seen], clips: Markup, results: Sequence[tuple[Path, dict[str, Any]]]) -> str:
    """Return the page around a grid of clips."""
    told = _Charts(runs)
    sections: list[tuple[str, str, list[Content]]] = [
        ("summary", "Summary", [tables.summary(runs), *_faults(runs)]),
        ("losses", "Losses", [told.drawn(charts.loss_charts(runs))]),
        ("held-out", "Held-out loss", [told.drawn(charts.held_out_charts(runs))]),
        ("samples", "Samples", [clips]),
        ("speed", "Speed and memory", [told.drawn(charts.speed_charts(runs))]),
        ("data", "Data", [told.drawn(charts.data_charts(runs)), tables.drops(runs)]),
        ("starts", "Starts and checkpoints", _events(runs)),
        ("evaluation", "Evaluation", [told.drawn(charts.measured_charts(runs)), tables.results(runs, results)]),
        ("config", "Config", _configs(runs)),
    ]
    style = _static("page.css") + _hiding(len(runs))
    script = _static("page.js")
    title = ", ".join(seen.run.name for seen in runs)
    return Template(_static("page.html")).substitute(
        policy=policy(script, style),
        title=join(title),
        style=style,
        script=script,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        links=join(*(element("a", name, href=f"#{place}") for place, name, _ in sections)),
        choices=_choices(runs),
        sections=join(
            *(element("section", element("h2", name), *content, id=place) for place, name, content in sections)
        ),
        # Text of a run must not end the element that holds it.
        numbers=json.dumps(told.numbers, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    )


class _Charts:
    """The charts of a page, which are numbered in the order in which they are drawn."""

    def __init__(self, runs: Sequence[Seen]) -> None:
        """Let all charts share the steps of all runs."""
        self.span = (float(min(seen.steps[0] for seen in runs)), float(max(seen.steps[1] for seen in runs)))
        self.numbers: list[dict[str, Any]] = []

    def drawn(self, shown: Sequence[Chart]) -> Markup | None:
        """Return charts beside each other; None where there is none."""
        figures = []
        for chart in shown:
            figures.append(figure(chart, len(self.numbers), self.span))
            self.numbers.append(numbers(chart, self.span))
        return element("div", *figures, class_="charts") if figures else None


def _choices(runs: Sequence[Seen]) -> Markup:
    """Return the boxes by which a reader hides runs and unsmoothed values, which needs no script."""
    boxes = [("faint", "values of each step behind smoothed ones")]
    if len(runs) > 1:
        boxes = [(f"run-{number}", seen.run.name) for number, seen in enumerate(runs)] + boxes
    return join(
        *(
            element("label", element("input", type="checkbox", id=f"show-{place}", checked=True), f" {name}")
            for place, name in boxes
        )
    )


def _hiding(runs: int) -> str:
    """Return the rules of style by which the boxes hide what they name."""
    names = ["faint", *(f"run-{number}" for number in range(runs))]
    return "".join(f"body:has(#show-{name}:not(:checked)) .{name} {{ display: none; }}\n" for name in names)


def _faults(runs: Sequence[Seen]) -> list[Content]:
    """Return what could not be read of the runs."""
    told = [f"{seen.run.name}: {fault}" for seen in runs for fault in seen.faults]
    return [element("ul", *(element("li", fault) for fault in told), class_="faults")] if told else []


def _events(runs: Sequence[Seen]) -> list[Content]:
    """Return the starts and checkpoints of each run."""
    parts: list[Content] = []
    for number, seen in enumerate(runs):
        name = element("h3", seen.run.name) if len(runs) > 1 else None
        parts.append(element("div", name, tables.starts(seen), tables.checkpoints(seen), class_=f"run-{number}"))
    return parts


def _configs(runs: Sequence[Seen]) -> list[Content]:
    """Return how the configs of several runs differ, and each of them whole."""
    parts: list[Content] = [tables.config_difference(runs)] if len(runs) > 1 else []
    for seen in runs:
        try:
            text: Content = element("pre", (seen.folder / RUN_CONFIG).read_text("utf-8", "replace"), tabindex="0")
        except OSError as error:
            text = element("p", f"not measured: {RUN_CONFIG} cannot be read ({error.strerror})", class_="none")
        summary = element("summary", f"{RUN_CONFIG} of {seen.run.name}")
        parts.append(element("details", summary, text))
    return parts


def _static(name: str) -> str:
    """Return the text of a file beside this one."""
    return (files(__package__) / name).read_text(encoding="utf-8")
