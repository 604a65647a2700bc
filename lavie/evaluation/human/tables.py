"""Tables 3 and 4 of the paper as Markdown, from the result of a study."""

from collections.abc import Mapping, Sequence
from typing import Any

from .key import LABELS, METRICS, NOT_APPLICABLE

PERCENT = "{:.2f} %"


def tables(result: Mapping[str, Any]) -> str:
    """Return both tables, strengths, agreement and raters, of all raters and, where some were not, of the attentive."""
    lines = ["# Human study", "", f"Study {result['study']}, protocol {result['protocol_hash']}.", ""]
    groups = [("all", "All raters")]
    if result["left_out"]["raters"]:
        groups.append(
            ("attentive", f"Raters with {100 * result['left_out']['golden_below']:.0f} % of the golden pairs right")
        )
    for group, title in groups:
        said = result[group]
        lines += [f"## {title} ({said['raters']})", ""]
        lines += _table_3(said["preferences"]) + _strengths(said["strengths"])
        lines += _table_4(said["ratings"], result["models"]) + _agreement(said)
    lines += _raters(result["raters"])
    if result["notes"]:
        lines += ["## Notes", "", *(f"- {note}" for note in result["notes"]), ""]
    return "\n".join(lines)


def _table_3(preferences: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return human preference on overall video quality."""
    head = [f"{cell(pair['first'])} > {cell(pair['second'])}" for pair in preferences]
    return [
        "### Table 3: human preference on overall video quality",
        "",
        *_grid(
            ["", *head],
            [
                ["Video quality, ties half", *(_share(pair) for pair in preferences)],
                ["without ties", *(_share(pair["without_ties"]) for pair in preferences)],
                [
                    "wins / ties / losses",
                    *(f"{pair['wins']} / {pair['ties']} / {pair['losses']}" for pair in preferences),
                ],
                ["raters, prompts", *(f"{pair['raters']}, {pair['prompts']}" for pair in preferences)],
                ["", *(cell(pair["verdict"]) for pair in preferences)],
            ],
        ),
    ]


def _strengths(strengths: Mapping[str, Any]) -> list[str]:
    """Return the fitted strengths, one row for each model."""
    fits = [fit for fit in strengths.values() if fit]
    if not fits:
        return []
    rows = []
    for model in fits[0]["models"]:
        row = [cell(model)]
        for fit in fits:
            found = fit["models"][model]
            around = found["interval"]
            row += [
                f"{found['strength']:.3f}" + (f" ({around[0]:.3f} to {around[1]:.3f})" if around else ""),
                f"{found['elo']:.0f}",
            ]
        rows.append(row)
    head = [part for fit in fits for part in (_fit_name(fit), "Elo")]
    return ["### Strengths", "", *_grid(["", *head], rows)]


def _fit_name(fit: Mapping[str, Any]) -> str:
    """Return the name of a fit, with Davidson's v."""
    return fit["model"] if fit["v"] is None else f"{fit['model']}, v = {fit['v']:.3f}"


def _table_4(ratings: Mapping[str, Any], models: Sequence[str]) -> list[str]:
    """Return the shares of bad, normal and good. The largest share of good in a row is bold."""
    if not any(ratings[metric]["models"][model]["ratings"] for metric in METRICS for model in models):
        return []
    head = [f"{cell(model)}: {label}" for model in models for label in LABELS]
    rows = []
    for metric, title in METRICS.items():
        own = ratings[metric]["models"]
        best = max((own[model][LABELS[-1]]["share"] or 0) for model in models)
        row = [title]
        for model in models:
            for label in LABELS:
                found = own[model][label]["share"]
                text = "–" if found is None else f"{found:.2f}"
                row.append(f"**{text}**" if label == LABELS[-1] and found == best and found is not None else text)
        counts = [str(own[model]["ratings"]) for model in models]
        passed = sum(own[model][NOT_APPLICABLE] for model in models)
        rows.append([*row, " / ".join(counts) + (f", and {passed} not applicable" if passed else "")])
    return [
        "### Table 4: human evaluation on five metrics",
        "",
        "Shares of all ratings of a model by that metric.",
        "",
        *_grid(["", *head, "ratings"], rows),
    ]


def _agreement(said: Mapping[str, Any]) -> list[str]:
    """Return alpha and kappa, of pairs and of each metric."""
    rows = [
        ["pairs (nominal)", _number(said["agreement"]["krippendorff_nominal"]), _number(said["agreement"]["fleiss"])]
    ]
    rows += [
        [f"{title} (ordinal)", _number(said["ratings"][metric]["krippendorff_ordinal"]), _number(found["fleiss"])]
        for metric, title in METRICS.items()
        if (found := said["ratings"][metric])
    ]
    return ["### Agreement", "", *_grid(["", "Krippendorff's alpha", "Fleiss' kappa"], rows)]


def _raters(raters: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is known of each rater."""
    rows = [
        [
            rater["name"],
            str(rater["votes"]),
            str(rater["ratings"]),
            f"{rater['golden_right']} of {rater['golden']}",
            f"{rater['repeats_alike']} of {rater['repeats']}",
            f"{rater['ties']:.0%}",
            "–" if rater["left"] is None else f"{rater['left']:.0%}",
            f"{rater['seconds']:.1f}",
            ("" if rater["finished"] else "not finished") + ("" if rater["attentive"] else " inattentive"),
        ]
        for rater in raters
    ]
    head = [
        "rater",
        "votes",
        "ratings",
        "golden right",
        "repeats alike",
        "ties",
        "left of the rest",
        "median seconds",
        "",
    ]
    return ["## Raters", "", *_grid(head, rows)]


def _share(found: Mapping[str, Any]) -> str:
    """Return a share in percent with its interval."""
    if found["share"] is None:
        return "–"
    text = PERCENT.format(100 * found["share"])
    if found["interval"]:
        text += " ({:.1f} to {:.1f})".format(*(100 * side for side in found["interval"]))
    return text


def _number(value: float | None) -> str:
    """Return a coefficient, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def cell(text: str) -> str:
    """Return text for a cell of a table: a bar would end it."""
    return text.replace("|", "\\|")


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table of Markdown, and an empty line."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]
