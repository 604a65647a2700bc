"""The page of a study as one file: script, style and trials in it, and a policy that lets nothing else run or load."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...evaluation.human.answers import COLUMNS
from ...evaluation.human.key import INDEX, LABELS, METRICS, NOT_APPLICABLE, OPTIONAL, OVERALL, PAGE, Key
from ...files import replacing
from ..markup import hashed_policy

QUESTIONS = {
    "motion_smoothness": "Does everything move evenly, without jerks or flicker?",
    "motion_reasonableness": "Could things move like this?",
    "subject_consistency": "Do people, animals and things keep their looks from start to end?",
    "background_consistency": "Does the background stay one and the same place?",
    "face_body_hand": "Are faces, bodies and hands well formed?",
}
"""What raters are asked for each metric; the paper gives the names alone."""


def write_page(out: Path, key: Key) -> Path:
    """Write page/index.html below `out`, and return its path."""
    path = out / PAGE / INDEX
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(page(key), encoding="utf-8")
    return path


def page(key: Key) -> str:
    """Return the page. It holds what raters may know: prompts, and blinded names of clips in the order of trials."""
    parts = {name: _static(f"page.{ending}") for name, ending in (("style", "css"), ("script", "js"))}
    # Text of prompts must not end the element that holds it.
    parts["data"] = json.dumps(_shown(key), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts["policy"] = policy(parts["script"], parts["style"])
    text = _static("page.html")
    for name, part in parts.items():
        text = text.replace("{{" + name + "}}", part, 1)
    return text


def policy(script: str, style: str) -> str:
    """Return the Content-Security-Policy: this script and style, clips beside the page, answers to its own server."""
    return hashed_policy(script, style, "media-src 'self'", "connect-src 'self'")


def _static(name: str) -> str:
    """Return the text of a file beside this one."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def _shown(key: Key) -> dict[str, Any]:
    """Return the study as the page needs it. Neither models nor what is golden or repeated can be read from it."""
    prompts = list(dict.fromkeys(item.prompt for item in key.items))
    places: list[list[dict[str, Any]]] = [[] for _ in range(key.design.raters)]
    for name, trial in key.trials.items():
        prompt = key.items[key.clips[trial.left].item].prompt
        shown = {"id": name, "prompt": prompts.index(prompt), "left": trial.left}
        places[trial.place].append(shown | ({"right": trial.right} if trial.right else {}))
    return {
        "study": key.study,
        "columns": COLUMNS,
        "overall": OVERALL,
        "metrics": [[name, title, QUESTIONS[name], name in OPTIONAL] for name, title in METRICS.items()],
        "labels": [[label, label.capitalize()] for label in LABELS],
        "none": [NOT_APPLICABLE, "Not applicable"],
        "prompts": prompts,
        "places": places,
    }
