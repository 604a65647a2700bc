"""The page of a report: one file that needs no other and loads nothing."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..select.funnel import Funnel, FunnelStep
from .numbers import AESTHETIC_EDGES, PAPER_AESTHETIC, Statistics

LISTED = 100
"""Films or clips that the page names for each reason; the lists below OUT/rejected name all."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but what is in it."""
STYLE = """
body { font: 15px/1.45 sans-serif; color: #141414; max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1, h2 { font-weight: 600 } h2 { margin-top: 2em }
table { border-collapse: collapse; margin: 1em 0 } th { text-align: left; font-weight: 600 }
td, th { padding: .2em .9em .2em 0; border-bottom: 1px solid #ddd; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100% } .warning { color: #c1121f } details { margin: .4em 0 } li { overflow-wrap: anywhere }
"""


def page(
    title: str,
    everything: Statistics,
    kept: Statistics,
    funnel: Funnel,
    cutting: tuple[Mapping[str, int], Mapping[str, int]],
    refused: Mapping[str, Mapping[str, Sequence[str]]],
    figures: Mapping[str, Path],
    sheets: Mapping[str, Path],
) -> str:
    """Return the page as HTML.

    Args:
        title: its heading.
        everything: of all clips.
        kept: of those that the rules keep.
        funnel: what each rule leaves.
        cutting: how many clips were made in which way, and why some were encoded.
        refused: for each stage and reason, the films or clips with details.
        figures: PNG files, by what they show.
        sheets: PNG files of the clips nearest each threshold, by the threshold.
    """
    films = sum(len(names) for names in refused.get("scan", {}).values())
    others = sum(len(names) for reasons in refused.values() for names in reasons.values()) - films
    parts = [
        _table(
            ("", "clips", "hours", "with a caption"),
            [(name, s.clips, f"{s.hours:.2f}", s.captioned) for name, s in (("all", everything), ("kept", kept))],
        ),
        *_warnings(funnel),
        "<h2>What each rule leaves</h2>",
        _table(
            ("rule", "clips left", "hours left", "alone it drops", "without a value"),
            [
                ("all clips", funnel.all.clips, f"{funnel.all.hours:.2f}", "", ""),
                *(
                    (step.rule, step.left.clips, f"{step.left.hours:.2f}", step.alone.clips, _without(step))
                    for step in funnel.steps
                ),
            ],
        ),
        "<h2>Beside the paper's set</h2>",
        _table(
            ("aesthetic score", f"below {AESTHETIC_EDGES[0]:g}", "4 to 6", f"above {AESTHETIC_EDGES[1]:g}"),
            [(name, *(f"{100 * share:.2f} %" for share in shares)) for name, shares in PAPER_AESTHETIC.items()]
            + [
                (name, *(f"{100 * share:.2f} %" for share in s.aesthetic_shares))
                for name, s in (("all clips", everything), ("kept", kept))
                if s.aesthetic_shares
            ],
        ),
        *(_picture(name, path) for name, path in figures.items()),
        "<h2>How clips were cut</h2>",
        _table(("way", "clips"), list(cutting[0].items())),
        _table(("why clips were encoded", "clips"), list(cutting[1].items())) if cutting[1] else "",
        "<h2>Clips nearest each threshold</h2>" if sheets else "",
        *(_picture(name, path) for name, path in sheets.items()),
        f"<h2>Refused: {films} films, and {others} clips or films behind the scan</h2>" if refused else "",
        *(_listed(f"{stage}: {reason}", names) for stage, of in refused.items() for reason, names in of.items()),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _without(step: FunnelStep) -> str:
    """Return how many clips have no value for a rule, and what becomes of them; "" where the rule asks for none."""
    if step.no_value == 0 or step.asks_for_none:
        return ""
    return f"{step.no_value}, {'dropped' if step.drops_no_value else 'kept'}"


def _warnings(funnel: Funnel) -> Iterable[str]:
    """Yield what a reader of the funnel must know."""
    if funnel.not_measured:
        yield _warning(f"Left out, for nobody has measured their columns: {', '.join(funnel.not_measured)}.")
    if funnel.uncut:
        yield _warning(f"{len(funnel.uncut)} units have no clips: not cut yet, or refused.")
    for stage, faults in funnel.faults.items():
        for fault, units in faults.items():
            yield _warning(f"{stage}: {fault} for {len(units)} units.")


def _warning(text: str) -> str:
    """Return a line in red."""
    return f'<p class="warning">{escape(text)}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table; whatever is no text, and columns after the first, stand to the right."""
    lines = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"]
    for row in rows:
        cells = [f"<td>{escape(str(row[0]))}</td>"]
        cells += [f'<td class="number">{escape(str(value))}</td>' for value in row[1:]]
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<table>" + "".join(lines) + "</table>"


def _picture(name: str, path: Path) -> str:
    """Return a picture with its heading, the file inside the page."""
    data = b64encode(path.read_bytes()).decode()
    return f'<h3>{escape(name)}</h3>\n<img alt="{escape(name)}" src="data:image/png;base64,{data}">'


def _listed(title: str, names: Sequence[str]) -> str:
    """Return a list that opens at a click."""
    items = "".join(f"<li>{escape(name)}</li>" for name in names[:LISTED])
    rest = f"<p>and {len(names) - LISTED} more</p>" if len(names) > LISTED else ""
    return f"<details><summary>{escape(title)}: {len(names)}</summary><ul>{items}</ul>{rest}</details>"
