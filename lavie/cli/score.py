"""`lavie score`: what a network draws for prompts it never saw, or makes of clips it never saw, beside chance."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from ..console import make_console
from ..files import require_free
from .runs import Checkpoint, Overwrite, Run, one_run

if TYPE_CHECKING:
    from ..evaluation.score_base import JudgedSet
    from ..evaluation.score_stages import StageScore

Item = TypeVar("Item")


def score(
    out: Annotated[Path, typer.Option(help="Where the contact sheets and score.json go.")],
    run: Run = None,
    checkpoint: Checkpoint = None,
    num: Annotated[int, typer.Option(min=1, help="Clips per held-out prompt.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the initial noise.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Judge a run on held-out data.

    base, trained on the rendered set: colour and direction of clips, colour of images, beside chance. The later stages:
    PSNR against the true clips, beside doing without a network.
    """
    folder = one_run(run, checkpoint)
    from ..evaluation.score_base import score_base
    from ..evaluation.score_stages import score_stage
    from ..inference.load import load_stage
    from ..inference.text_to_video import TextToVideo

    sampler, config = load_stage(folder)
    stage = config.stage
    base = ("score.json", "clips.png", "images.png")
    names = base if isinstance(sampler, TextToVideo) else (f"score-{stage}.json", f"{stage}.png")
    require_free(*(out / name for name in names), overwrite=overwrite)
    if isinstance(sampler, TextToVideo):
        judged = {}
        for kind, samples in score_base(sampler, config, out, num_per_prompt=num, seed=seed, track=_track):
            print_verdicts(samples)
            judged[kind] = samples
        print_accuracies(judged)
    else:
        print_psnr(score_stage(sampler, config, out, seed=seed, track=_track))


def _track(items: Sequence[Item], what: str) -> Iterable[Item]:
    """Return the items one by one, with a progress bar that vanishes at the end."""
    return track(items, description=what, transient=True, console=make_console())


def print_verdicts(samples: "JudgedSet", console: Console | None = None) -> None:
    """Print each prompt with what is seen in its sample, then the accuracies beside chance."""
    console = console or make_console()
    table = Table("prompt", "colour", "direction", title="What the judge sees")
    for prompt, verdict, truth in zip(samples.prompts, samples.verdicts, samples.truths, strict=True):
        table.add_row(prompt, *(_cell(seen, wanted) for seen, wanted in zip(verdict, truth, strict=True)))
    console.print(table)
    table = Table("", "right", "accuracy", "chance", title="Against what was asked for")
    for name, part in samples.accuracies.items():
        if part["count"]:
            right = f"{part['right']} / {part['count']}"
            table.add_row(name, right, f"{part['accuracy']:.0%}", f"{part['chance']:.0%}")
    console.print(table)


def print_accuracies(judged: dict[str, "JudgedSet"]) -> None:
    """Print a line for each accuracy of each kind of samples."""
    for kind, samples in judged.items():
        for name, part in samples.accuracies.items():
            if part["count"]:
                share = f"{part['accuracy']:.0%} ({part['right']}/{part['count']})"
                typer.echo(f"{kind}: {name} {share}, chance {part['chance']:.0%}")


def _cell(seen: str | None, wanted: str | None) -> Text:
    """Return the text of a verdict: green if it is right, red beside what was wanted, a dash if nothing was."""
    if wanted is None:
        return Text("-")
    return Text(wanted, "green") if seen == wanted else Text(f"{seen or 'none'}, wanted {wanted}", "red")


def print_psnr(scored: "StageScore") -> None:
    """Print the mean PSNR of the network and of doing without it, and what makes it say less."""
    line = ", ".join(f"{name} {value:.2f} dB" for name, value in scored.psnr_db.items())
    cut = f"{scored.cuts} cuts of {scored.clips}" if scored.cuts > scored.clips else f"{scored.clips}"
    frames, height, width = scored.size
    typer.echo(f"{scored.stage}: PSNR of {cut} held-out clips, {frames} frames of {height} x {width} each: {line}")
    for note in scored.notes:
        typer.echo(f"note: {note}", err=True)
