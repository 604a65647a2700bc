"""Which curves a report shows of its runs, section by section."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...evaluation.run_records import validation_title
from .chart import Chart, Curve
from .read import Seen, is_number

MEASURED = "eval_"
"""How the keys begin of what is measured of samples while a run trains."""
BESIDE, ERROR, COUNT = "_held_out", "_error", "eval_clips"
"""How the keys end of the same measure of held-out clips, and of a standard error; and the number of clips."""


def loss_charts(runs: Sequence[Seen]) -> list[Chart]:
    """Return the training loss and the norm of the gradient."""
    resumes = tuple(
        (number, start["step"], f"resumed after step {start['step']}")
        for number, seen in enumerate(runs)
        for start in seen.of_kind("start")
        if 0 < start["step"] <= seen.steps[1]
    )
    return [
        Chart("Training loss", _losses(runs, "loss", smooth=True), logarithmic=True, events=resumes),
        _each(runs, "Norm of the gradient", "grad_norm", logarithmic=True),
    ]


def held_out_charts(runs: Sequence[Seen]) -> list[Chart]:
    """Return the held-out loss, whole and by quantile of the noise schedule."""
    title = validation_title([seen.run for seen in runs]).partition(":")[0].capitalize()
    charts = [Chart(title, _losses(runs, "validation_loss", smooth=False), logarithmic=True)]
    timesteps = sorted({timestep for seen in runs for timestep in seen.run.timesteps})
    if len(runs) == 1:
        curves = [
            Curve(f"t = {t}", *runs[0].run.series(f"validation_loss_t{t}"), style=style, marks=True)
            for style, t in enumerate(timesteps)
        ]
        return [*charts, Chart("Held-out loss by timestep", curves, logarithmic=True)]
    for timestep in timesteps:
        title = f"Held-out loss at t = {timestep}"
        charts.append(_each(runs, title, f"validation_loss_t{timestep}", smooth=False, logarithmic=True))
    return charts if timesteps else [*charts, Chart("Held-out loss by timestep", ())]


def speed_charts(runs: Sequence[Seen]) -> list[Chart]:
    """Return the learning rate, and what steps took."""
    waits = []
    for number, seen in enumerate(runs):
        pairs = [
            (step, 100 * record["data_wait_s"] / record["seconds"])
            for step, record in seen.run.records.items()
            if is_number(record.get("data_wait_s")) and is_number(record.get("seconds")) and record["seconds"] > 0
        ]
        steps, values = np.array(pairs, dtype=float).reshape(-1, 2).T
        waits.append(Curve(_label(runs, seen, "share of a step"), steps, values, number, number, smooth=True))
    return [
        _each(runs, "Learning rate", "lr", smooth=False, from_zero=True),
        _each(runs, "Throughput, samples per second", "samples_per_s", from_zero=True),
        Chart("Waiting for data", waits, unit=" %", from_zero=True),
        _each(runs, "Most memory so far, of rank 0", "memory", smooth=False, unit=" GiB", from_zero=True),
        _each(runs, "Compute of rank 0", "tflops", unit=" TFLOP/s", from_zero=True),
        _each(runs, "Share of the time that trained the run (ETTR)", "ettr", smooth=False, from_zero=True),
    ]


def data_charts(runs: Sequence[Seen]) -> list[Chart]:
    """Return the shares of the datasets, for each kind of sample, and the epoch."""
    charts = []
    kinds = list(dict.fromkeys(d["kind"] for seen in runs for _, _, datasets in _shares(seen) for d in datasets))
    for kind in kinds:
        curves: list[Curve] = []
        for number, seen in enumerate(runs):
            for name, points in _joined(seen, kind).items():
                steps, values = np.array(points, dtype=float).reshape(-1, 2).T
                label = _label(runs, seen, name or "all of data.train")
                curves.append(Curve(label, steps, 100 * values, len(curves), number))
        charts.append(Chart(f"Shares of the datasets: {kind}", curves, unit=" %", from_zero=True))
    charts = charts or [Chart("Shares of the datasets", ())]
    return [*charts, _each(runs, "Epoch", "epoch", smooth=False, from_zero=True)]


def measured_charts(runs: Sequence[Seen]) -> list[Chart]:
    """Return what was measured of samples while the runs trained, each beside the same of held-out clips."""
    keys = {key for seen in runs for key in seen.run.keys if key.startswith(MEASURED)}
    charts = []
    for key in sorted(key for key in keys if not key.endswith((BESIDE, ERROR)) and key != COUNT):
        curves: list[Curve] = []
        for number, seen in enumerate(runs):
            for part, words in ((key, "samples"), (key + BESIDE, "held-out clips")):
                if part in keys:
                    label = _label(runs, seen, words)
                    curves.append(Curve(label, *seen.run.series(part), len(curves), number, marks=True))
        charts.append(Chart(key.removeprefix(MEASURED), curves))
    return charts


def _losses(runs: Sequence[Seen], loss: str, smooth: bool) -> list[Curve]:
    """Return the curves of "loss" or "validation_loss": of one run with its parts, of several what compares."""
    marks = not smooth
    if len(runs) == 1:
        run = runs[0].run
        parts = {"": run.total(loss)} | ({"_video": "video", "_image": "image"} if "+" in run.total(loss) else {})
        return [
            Curve(label, *run.series(loss + part), style, 0, smooth, marks)
            for style, (part, label) in enumerate(parts.items())
        ]
    totals = {seen.run.total(loss) for seen in runs if len(seen.run.series(loss)[0])}
    curves = []
    for number, seen in enumerate(runs):
        total = seen.run.total(loss)
        part = "_video" if "+" in total and len(totals) > 1 else ""
        label = f"{seen.run.name}: {'video' if part else total}"
        curves.append(Curve(label, *seen.run.series(loss + part), number, number, smooth, marks))
    return curves


def _each(runs: Sequence[Seen], title: str, key: str, *, smooth: bool = True, **options: Any) -> Chart:
    """Return a chart of one key, with a curve for each run; one that is not smoothed and has few values is marked."""
    curves = []
    for number, seen in enumerate(runs):
        steps, values = seen.run.series(key)
        marks = not smooth and key.startswith("validation")
        curves.append(Curve(_label(runs, seen, ""), steps, values, number, number, smooth, marks))
    return Chart(title, curves, **options)


def _label(runs: Sequence[Seen], seen: Seen, what: str) -> str:
    """Return a curve's name: of several runs, with the run's."""
    if len(runs) == 1:
        return what or "last"
    return f"{seen.run.name}: {what}" if what else seen.run.name


def _shares(seen: Seen) -> list[tuple[int, list[float], list[dict[str, Any]]]]:
    """Return what each start of a run said of its datasets: the step of the start, the steps, and the datasets."""
    found = []
    for facts in seen.of_kind("facts"):
        told = facts.get("shares")
        if isinstance(told, dict) and isinstance(told.get("steps"), list) and isinstance(told.get("datasets"), list):
            whole = [dataset for dataset in told["datasets"] if _is_dataset(dataset, told["steps"])]
            found.append((facts["step"], told["steps"], whole))
    return found


def _is_dataset(dataset: Any, steps: list[Any]) -> bool:
    """Return whether a dataset of an event has a name, a kind, and a share at each step."""
    if not isinstance(dataset, dict) or not isinstance(dataset.get("shares"), list):
        return False
    named = isinstance(dataset.get("name"), str) and isinstance(dataset.get("kind"), str)
    return named and len(dataset["shares"]) == len(steps) and all(map(is_number, [*dataset["shares"], *steps]))


def _joined(seen: Seen, kind: str) -> dict[str, list[tuple[float, float]]]:
    """Return the shares of the datasets of a kind up to the last step of a run, each start's from where it began."""
    points: dict[str, list[tuple[float, float]]] = {}
    for begin, steps, datasets in _shares(seen):
        for dataset in (dataset for dataset in datasets if dataset["kind"] == kind):
            kept = [point for point in points.get(dataset["name"], []) if point[0] < begin]
            new = [pair for pair in zip(steps, dataset["shares"], strict=True) if begin <= pair[0] <= seen.steps[1]]
            points[dataset["name"]] = kept + new
    return points
