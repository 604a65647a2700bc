"""The tables of a report: what runs came to, what they were made from, what happened to them, how they differ."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...evaluation.measured import interval
from ...evaluation.run_records import smoothed
from ...training.progress import duration
from ..markup import Content, Markup, element
from .chart import plain
from .charts import COUNT, ERROR, MEASURED
from .read import Seen, is_number

NOT_MEASURED = "not measured"
NONE = element("span", NOT_MEASURED, class_="none")
RECENT = 100
"""The last steps whose throughput and wait for data the summary tells."""

DIGITS = 12
"""Digits of a commit that tell it from others of its checkout."""


class Fact(NamedTuple):
    """A number of the summary, or a text."""

    value: float | str | None
    """None: not measured."""
    unit: str = ""
    note: str = ""

    @property
    def shown(self) -> Content:
        """The fact as a cell holds it."""
        if self.value is None:
            return NONE
        told = self.value if isinstance(self.value, str) else plain(self.value) + self.unit
        return f"{told} {self.note}".strip()


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Content]], empty: str = NOT_MEASURED) -> Markup:
    """Return a table, whose first column names the rows; without rows, words in its place."""
    if not rows:
        return element("div", element("h3", caption), element("p", empty, class_="none"))
    top = element("thead", element("tr", *(element("th", name, scope="col") for name in head)))
    body = (
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    )
    content = element("table", element("caption", caption), top, element("tbody", *body))
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def summary(runs: Sequence[Seen]) -> Markup:
    """Return what each run came to; of two runs, with the difference."""
    facts = [_facts(seen) for seen in runs]
    rows: list[list[Content]] = []
    for name in facts[0]:
        cells: list[Content] = [name, *(of_run[name].shown for of_run in facts)]
        if len(runs) == 2:
            a, b = (of_run[name].value for of_run in facts)
            cells.append(f"{b - a:+.4g}" if is_number(a) and is_number(b) else "")
        rows.append(cells)
    head = ["", *(seen.run.name for seen in runs), *(["second less first"] if len(runs) == 2 else [])]
    if len(runs) > 1:
        return table("What the runs came to", head, rows)
    return element("div", table("What the run came to", head, rows), class_="alone")  # as a list in columns


def _facts(seen: Seen) -> dict[str, Fact]:
    """Return the rows of the summary for a run, the same names for every run."""
    run, facts = seen.run, seen.facts
    _, losses = run.series("loss")
    steps, held_out = run.series("validation_loss")
    recent = [record for record in run.records.values() if "loss" in record][-RECENT:]
    rates = _numbers(recent, "samples_per_s")
    seconds, waited = _numbers(recent, "seconds"), _numbers(recent, "data_wait_s")
    _, memory = run.series("memory")
    starts, saves = seen.of_kind("start"), seen.of_kind("save")
    again = sum(start["lost_steps"] for start in starts if isinstance(start.get("lost_steps"), int))
    wanted = run.config.get("max_train_steps")
    least = int(held_out.argmin()) if len(held_out) else 0
    ettr = seen.last("ettr")
    return {
        "stage": Fact(_text(run.config.get("stage"))),
        "step": Fact(float(seen.steps[1]) if run.records else None, note=f"of {wanted}" if wanted else ""),
        "last record (UTC)": Fact(_minute(seen.last("time"))),
        "training loss, smoothed": Fact(float(smoothed(losses)[-1]) if len(losses) else None),
        "held-out loss, last": Fact(float(held_out[-1]) if len(held_out) else None),
        "held-out loss, lowest": Fact(
            float(held_out[least]) if len(held_out) else None, note=f"at step {steps[least]:g}" if len(held_out) else ""
        ),
        f"samples per second, median of {RECENT} steps": Fact(float(np.median(rates)) if rates else None),
        "waiting for data": Fact(100 * sum(waited) / sum(seconds) if waited and sum(seconds) else None, " % of a step"),
        "most memory of rank 0": Fact(float(memory.max()) if len(memory) else None, " GiB"),
        "time that trained the run (ETTR)": Fact(100 * ettr if is_number(ettr) else None, " %"),
        "steps left out": Fact(_number(seen.last("skipped"))),
        "spikes": Fact(_number(seen.last("spikes"))),
        "samples replaced": Fact(float(seen.causes.total()) if run.records else None),
        "starts": Fact(float(len(starts)) if starts else None),
        "steps done again": Fact(float(again) if starts else None),
        "checkpoints saved": Fact(float(len({save["step"] for save in saves})) if seen.events else None),
        "ranks": Fact(_number(facts.get("ranks"))),
        "device": Fact(_text(seen.last("device"))),
        "lavie": Fact(_text(facts.get("lavie"))),
        "commit": Fact(_short(facts.get("commit"))),
        "hash of the code": Fact(_text(facts.get("code"))),
    }


def drops(runs: Sequence[Seen]) -> Markup:
    """Return how many samples were replaced, by cause."""
    causes = sorted({cause for seen in runs for cause in seen.causes}, key=lambda c: -sum(s.causes[c] for s in runs))
    rows = [[cause, *(str(seen.causes[cause]) for seen in runs)] for cause in causes]
    return table("Samples replaced, by cause", ["cause", *_heads(runs)], rows, "no sample was replaced")


def starts(seen: Seen) -> Markup:
    """Return the starts of a run, with what it was made from at each."""
    found: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    for event in seen.events:
        if event.get("event") == "start":
            found.append((event, {}))
        elif event.get("event") == "facts" and found:
            found[-1] = (found[-1][0], event)
    rows: list[list[Content]] = []
    before: Mapping[str, Any] = {}
    for start, facts in found:
        told = facts.get("versions")
        versions: Mapping[str, Any] = told if isinstance(told, dict) else {}
        changed = ", ".join(f"{name} {version}" for name, version in versions.items() if before.get(name) != version)
        origin = (facts.get("ranks"), facts.get("lavie"), _short(facts.get("commit")), facts.get("code"))
        packages = changed or ("as before" if versions else None)
        rows.append([*_start(start), *map(_shown, (*origin, packages))])
        before = versions
    head = ("after step", "time (UTC)", "done again", "ranks", "lavie", "commit", "hash of the code", "packages")
    return table("Starts and resumes", head, rows)


def _start(event: Mapping[str, Any]) -> list[Content]:
    """Return the first cells of a start."""
    at, lost = event.get("time"), event.get("lost_steps")
    when = None
    if is_number(at) and 0 <= at < 2**33:
        when = datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    seconds = event.get("lost_s")
    took = f" ({duration(seconds)})" if lost and is_number(seconds) else ""
    return [str(event["step"]), when or NONE, f"{lost} steps{took}" if isinstance(lost, int) else NONE]


def checkpoints(seen: Seen) -> Markup:
    """Return the checkpoints of a run: those that it tells of, and those that lie there."""
    told: dict[int, dict[str, Any]] = {}
    for event in seen.events:
        if event.get("event") in ("save", "dropped"):
            told.setdefault(event["step"], {}).update(event)
    rows: list[list[Content]] = []
    for step in sorted(told.keys() | seen.checkpoints.keys()):
        event = told.get(step, {})
        if step in seen.checkpoints:
            state = "lies there" if seen.checkpoints[step] else "unfinished"
        else:
            state = f"dropped: {event.get('reason')}" if event.get("event") == "dropped" else "deleted since"
        stall = event.get("stall_s")
        rows.append([str(step), state, f"{stall:.2f} s" if is_number(stall) else NONE])
    return table("Checkpoints", ("step", "state", "the run stood still for"), rows, "no checkpoint was saved")


def results(runs: Sequence[Seen], others: Sequence[tuple[Path, Mapping[str, Any]]]) -> Markup:
    """Return the results of evaluations: of files, and the last of those during training."""
    rows: list[list[Content]] = []
    files = [(seen.run.name, path, result) for seen in runs for path, result in seen.results]
    for name, path, result in [*files, *(("", path, result) for path, result in others)]:
        rows.append([str(result["metric"]), plain(result["value"]), _interval(result.get("interval"))])
        n = result["n"]
        count = ", ".join(f"{side} {k}" for side, k in n.items()) if isinstance(n, dict) else str(n)
        kind = " ".join(str(result[key]) for key in ("preset",) if result.get(key))
        rows[-1] += [count, f"{kind} {result['protocol_hash']}".strip(), f"{name}: {path.name}" if name else str(path)]
    for seen in runs:
        steps = [step for step, record in seen.run.records.items() if any(key.startswith(MEASURED) for key in record)]
        record = seen.run.records[steps[-1]] if steps else {}
        for key, value in record.items():
            if not key.startswith(MEASURED) or key.endswith(ERROR) or key == COUNT or not is_number(value):
                continue
            error = record.get(key + ERROR)
            around = _interval(interval(value, error)) if is_number(error) else NONE
            count = f"{record[COUNT]:g}" if is_number(record.get(COUNT)) else NONE
            where = f"{seen.run.name}: step {steps[-1]}"
            name = key.removeprefix(MEASURED)
            rows.append([name, plain(value), around, count, "section eval of the config, without a hash", where])
    head = ("metric", "value", "95 % interval", "n", "protocol", "where from")
    return table(
        "Results of evaluations", head, rows, "not measured: no result of lavie eval, and no eval in the config"
    )


def config_difference(runs: Sequence[Seen]) -> Markup:
    """Return the keys of the config in which runs differ."""
    flat = [_flat(seen.run.config) for seen in runs]
    keys = [
        key for key in dict.fromkeys(key for of_run in flat for key in of_run) if len({c.get(key) for c in flat}) > 1
    ]
    rows = [[key, *(of_run.get(key, element("span", "absent", class_="none")) for of_run in flat)] for key in keys]
    return table("Config: what differs", ["key", *_heads(runs)], rows, "the configs are the same")


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Return the values of nested mappings by their dotted keys, as JSON."""
    if isinstance(value, Mapping) and value:
        parts = (_flat(part, f"{name}.{key}" if name else str(key)) for key, part in value.items())
        return {key: part for found in parts for key, part in found.items()}
    return {name: json.dumps(value, ensure_ascii=False, default=str)} if name else {}


def _heads(runs: Sequence[Seen]) -> list[str]:
    """Return the heads of columns that stand for runs."""
    return [seen.run.name for seen in runs] if len(runs) > 1 else ["number"]


def _interval(found: Any) -> Content:
    """Return an interval in words."""
    whole = isinstance(found, (list, tuple)) and len(found) == 2 and all(map(is_number, found))
    return f"{plain(found[0])} to {plain(found[1])}" if whole else NONE


def _numbers(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Return the numbers that some records have under a key."""
    return [record[key] for record in records if is_number(record.get(key))]


def _number(value: Any) -> float | None:
    """Return a value that is a number, else None."""
    return float(value) if is_number(value) else None


def _text(value: Any) -> str | None:
    """Return a value as text, None for none."""
    return None if value is None else str(value)


def _short(commit: Any) -> str | None:
    """Return a commit by its first DIGITS digits, with -dirty where files differed from it; None for none."""
    if commit is None:
        return None
    digits, dash, dirty = str(commit).partition("-")
    return digits[:DIGITS] + dash + dirty


def _minute(time: Any) -> str | None:
    """Return a time of a record, in ISO 8601, to the minute; None for none."""
    return None if time is None else str(time)[:16].replace("T", " ")


def _shown(value: Any) -> Content:
    """Return a value as a cell holds it."""
    return NONE if value is None else str(value)
