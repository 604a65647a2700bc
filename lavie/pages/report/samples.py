"""What validation drew, as a grid of prompts and steps: in the page itself, or by links relative to it."""

import os
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ...training.writers import Sample
from ..markup import Markup, element, join
from .read import Seen

MOST_STEPS, MOST_CLIPS = 12, 96
"""Columns, and cells in all: browsers hold only so many players."""
LONGEST = 300
"""Characters of a prompt that are shown."""
TYPES = {".mp4": "video/mp4", ".png": "image/png"}

Place = tuple[str, int]
"""A prompt, and the how manieth of its text in a folder it is."""


class Grid:
    """The cells of a grid.

    Attributes:
        steps: the columns that are shown, ascending.
        prompts: the prompts that are shown.
        hidden: a sentence for what is not shown.
    """

    def __init__(self, runs: Sequence[Seen]) -> None:
        """Choose what is shown of the samples of some runs."""
        self.runs = runs
        self._cells: dict[tuple[Place, int, int], Sample] = {}
        for number, seen in enumerate(runs):
            for step, samples in seen.samples.items():
                met: dict[str, int] = {}
                for sample in samples:
                    met[sample.prompt] = met.get(sample.prompt, 0) + 1
                    self._cells[(sample.prompt, met[sample.prompt]), number, step] = sample

        # The first and the last step are always shown, and those between evenly.
        prompts = list(dict.fromkeys(place for place, _, _ in self._cells))
        steps = sorted({step for _, _, step in self._cells})
        self.prompts = prompts[: max(1, MOST_CLIPS // (2 * len(runs)))]
        across = max(2, min(MOST_STEPS, MOST_CLIPS // max(1, len(self.prompts) * len(runs))))
        last = len(steps) - 1
        chosen = (
            {round(i * last / (across - 1)) for i in range(across)} if len(steps) > across else set(range(last + 1))
        )
        self.steps = [steps[i] for i in sorted(chosen)]
        self.hidden = [
            f"{len(shown)} of {len(there)} {what} are shown; all lie in samples/."
            for shown, there, what in ((self.steps, steps, "steps"), (self.prompts, prompts, "prompts"))
            if len(shown) < len(there)
        ]

    def sample(self, place: Place, run: int, step: int) -> Sample | None:
        """Return the sample of a cell, if there is one."""
        return self._cells.get((place, run, step))

    def size(self) -> int:
        """Return the bytes of all files that the grid shows."""
        cells = (
            self.sample(place, run, step) for place in self.prompts for run in self._numbers for step in self.steps
        )
        paths = [sample.video or sample.preview for sample in cells if sample]
        return sum(path.stat().st_size for path in paths if path.is_file())

    @property
    def _numbers(self) -> range:
        """The numbers of the runs."""
        return range(len(self.runs))

    def table(self, beside: Path | None) -> Markup:
        """Return the grid.

        Args:
            beside: the folder of the page, to which links are relative; None: the files are in the page.
        """
        names = (element("th", f"step {step}" if step else "before training", scope="col") for step in self.steps)
        head = element("tr", element("td"), *names)
        bodies = []
        for place in self.prompts:
            prompt, copy = place
            told = _shortened(prompt) + (f" ({copy})" if copy > 1 else "")
            title = element("th", element("span", told), colspan=len(self.steps) + 1, scope="rowgroup", class_="prompt")
            rows = [element("tr", title)]
            for number, seen in enumerate(self.runs):
                cells = [_cell(self.sample(place, number, step), step, told, seen, beside) for step in self.steps]
                if any(self.sample(place, number, step) for step in self.steps):
                    name = element("th", seen.run.name if len(self.runs) > 1 else None, scope="row")
                    rows.append(element("tr", name, *cells, class_=f"run-{number}"))
            bodies.append(element("tbody", *rows))
        return element("table", element("thead", head), *bodies, class_="clips")


def _shortened(prompt: str) -> str:
    """Return a prompt as it is shown, and told beside each of its clips. The section of the config has all of it."""
    return prompt if len(prompt) <= LONGEST else f"{prompt[:LONGEST]}… ({len(prompt):,} characters)"


def _cell(sample: Sample | None, step: int, prompt: str, seen: Seen, beside: Path | None) -> Markup:
    """Return the cell of a sample."""
    if sample is None:
        return element("td", "not drawn", class_="none")
    path = sample.video or sample.preview
    try:
        source = _data(path) if beside is None else _link(path, beside)
    except OSError:
        return element("td", f"{path.name} is missing", class_="none")
    label = f"{seen.run.name}, step {step}: {prompt}"
    if sample.video is None:
        return element("td", element("img", src=source, alt=label))
    options = {"muted": True, "loop": True, "playsinline": True, "controls": True}
    preload = "auto" if beside is None else "metadata"
    return element("td", element("video", src=source, preload=preload, aria_label=label, **options))


def _data(path: Path) -> str:
    """Return a file as an address that holds it."""
    return f"data:{TYPES[path.suffix]};base64,{b64encode(path.read_bytes()).decode()}"


def _link(path: Path, beside: Path) -> str:
    """Return the address of a file, relative to a folder. OSError if the file is missing."""
    path.stat()
    return quote(os.path.relpath(path.resolve(), beside.resolve()))


def section(grid: Grid, beside: Path | None) -> Markup:
    """Return the grid with its button and slider; words where validation drew nothing."""
    if not grid.steps:
        return element("p", "not measured: validation has drawn no samples", class_="none")
    button = element("button", "Play all", type="button", id="play", aria_pressed="false")
    slider = element(
        "input",
        type="range",
        id="place",
        min=0,
        max=1000,
        value="0",
        step=1,
        aria_label="Place in all clips, in per mille",
    )
    bar = element("div", button, slider, class_="player", id="player", hidden=True)
    where = (
        None
        if beside is None
        else element("p", "The clips lie beside this file: keep it in its folder.", class_="note")
    )
    scroll = element("div", grid.table(beside), class_="scroll", tabindex="0", role="region", aria_label="Samples")
    return join(bar, scroll, where, *(element("p", words, class_="note") for words in grid.hidden))
