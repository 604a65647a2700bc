"""What a recording of training steps shows: a table of where the time went, and a picture of it over time.

Each event counts with the time that none of the events inside it took. Operations of the host and work of a GPU stand
beside each other: while the GPU computes, the host runs ahead, or waits.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.autograd import DeviceType

from ..labels import label_text

PHASE = "run::"
"""How the names of the parts of a step begin. Those of this project's operations begin with lavie::."""
KINDS = {
    "ZeRO gathers": r"all_?gather",
    "other collectives": r"^(nccl|gloo|c10d)|record_param_comms|all_?reduce|reduce_?scatter|broadcast",
    "synchronisations": r"_local_scalar_dense|Synchronize|aten::item$|aten::is_nonzero$",
    "copies": r"aten::copy_$|Memcpy|memcpy",
}
"""The kinds of events that are told apart, and patterns of their names; the first that fits counts."""
COMPUTATION = "computation"
"""The kind of all other events."""
COLOURS = {
    COMPUTATION: "#2a9d8f",
    "ZeRO gathers": "#e08a1e",
    "other collectives": "#c1440e",
    "synchronisations": "#7a1f5c",
    "copies": "#1f3b73",
}
SHOWN = 15
"""Operations in the table."""
NARROWEST = 1 / 2000
"""Share of the picture's width that an event has at least, so that it can be seen."""


class Event(NamedTuple):
    """One event of a recording."""

    name: str
    kind: str
    """The event's kind, of KINDS or COMPUTATION; PHASE for a part of the step."""
    on_gpu: bool
    thread: int
    """The thread of the host that it ran on; 0 on a GPU."""
    start: float
    """Microseconds from the first event on."""
    duration: float
    """Microseconds."""
    own: float
    """Microseconds of it in no event inside."""


def timed_events(events: Iterable[Any]) -> list[Event]:
    """Return the events of PyTorch's profiler, by their start; phases count on the host alone."""
    made = []
    for event in events:
        on_gpu = event.device_type != DeviceType.CPU
        phase = event.name.startswith(PHASE)
        if phase and on_gpu:
            continue
        start, end = event.time_range.start, event.time_range.end
        own = end - start if on_gpu or event.is_async else event.self_cpu_time_total
        kind = PHASE if phase else _kind(event.name)
        made.append(Event(event.name, kind, on_gpu, 0 if on_gpu else event.thread, start, end - start, own))
    first = min((event.start for event in made), default=0.0)
    return sorted((event._replace(start=event.start - first) for event in made), key=lambda event: event.start)


def profile_text(events: Sequence[Event], steps: int) -> str:
    """Return the tables of a recording of `steps` steps; all numbers are means of a step."""
    phases: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if event.kind == PHASE:
            phases[event.name.removeprefix(PHASE)] += event.duration
    whole = phases.pop("step", 0.0)
    phases["between these"] = whole - sum(phases.values())
    counted = "1 step" if steps == 1 else f"{steps} steps"
    lines = [f"{counted}, {whole / steps / 1e3:.1f} ms each; all numbers are of one step, on this rank", ""]
    lines += ["part of the step                           ms   share"]
    for name, time in phases.items():
        shown = "wait for data" if name == "data" else name
        lines.append(f"{shown:36} {time / steps / 1e3:9.2f} {time / max(whole, 1e-9):7.1%}")

    for on_gpu in sorted({event.on_gpu for event in events}):
        of_device = [event for event in events if event.on_gpu == on_gpu and event.kind != PHASE]
        lines += ["", *_device_lines(of_device, steps, "GPU" if on_gpu else "host", whole)]
    return "\n".join(lines)


def _device_lines(events: Sequence[Event], steps: int, device: str, whole: float) -> list[str]:
    """Return the tables of one device: by kind, then the largest operations."""
    kinds: defaultdict[str, float] = defaultdict(float)
    names: defaultdict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for event in events:
        kinds[event.kind] += event.own
        names[event.name] += event.own
        calls[event.kind] += 1
        calls[event.name] += 1
    lines = [f"{'kind, on the ' + device:36} {'ms':>9} {'share':>7} {'calls':>9}"]
    rows = [(kind, kinds[kind]) for kind in COLOURS]
    lines += [_row(name, time, calls[name], steps, whole) for name, time in rows]
    lines += ["", f"{'largest, on the ' + device:36} {'ms':>9} {'share':>7} {'calls':>9}"]
    lines += [
        _row(name, time, calls[name], steps, whole)
        for name, time in sorted(names.items(), key=lambda item: -item[1])[:SHOWN]
    ]
    return lines


def _row(name: str, time: float, calls: int, steps: int, whole: float) -> str:
    """Return a line of a table."""
    shown = name if len(name) <= 36 else name[:33] + "..."
    return f"{shown:36} {time / steps / 1e3:9.2f} {time / max(whole, 1e-9):7.1%} {calls / steps:9.1f}"


def _kind(name: str) -> str:
    """Return the kind of an event by its name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), COMPUTATION)


def draw_timeline(events: Sequence[Event], png: Path) -> None:
    """Draw a recording over time: the parts of the steps, then each kind of event on the host and on the GPU.

    Args:
        events: from `timed_events`.
        png: the file, of 1680 pixels by 600 or more.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    phases = [event for event in events if event.kind == PHASE]
    rows: list[tuple[str, list[Event]]] = [
        ("step", [event for event in phases if event.name == PHASE + "step"]),
        ("parts", [event for event in phases if event.name != PHASE + "step"]),
    ]
    for on_gpu in sorted({event.on_gpu for event in events}):
        for kind in COLOURS:
            chosen = [event for event in events if event.kind == kind and event.on_gpu == on_gpu and event.own > 0]
            if chosen:
                rows.append((f"{'GPU' if on_gpu else 'host'}: {kind}", chosen))
    figure = Figure(figsize=(14, 1.6 + 0.55 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots()
    end = max((event.start + event.duration for event in events), default=1.0)
    names = list(dict.fromkeys(event.name for event in rows[1][1]))
    for at, (_, chosen) in enumerate(rows):
        bars = [(event.start / 1e3, max(event.duration, end * NARROWEST) / 1e3) for event in chosen]
        colours = [
            f"C{names.index(event.name) % 10}" if event.name in names else COLOURS.get(event.kind, "0.6")
            for event in chosen
        ]
        axes.broken_barh(bars, (at - 0.4, 0.8), facecolors=colours, linewidth=0)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, end / 1e3)
    axes.set_xlabel("milliseconds from the first recorded step on")
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)
    legend = [Patch(color=f"C{i % 10}", label=label_text(name.removeprefix(PHASE))) for i, name in enumerate(names)]
    figure.legend(handles=legend, loc="outside upper center", ncols=max(1, len(legend)), frameon=False, fontsize=9)
    figure.savefig(png, format="png")
