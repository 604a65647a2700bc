"""The commands `lavie eval human ...`: a study in which people compare and rate clips."""

import secrets
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from ..console import make_console, progress_bar
from ..errors import ConfigError
from ..files import require_free, require_writable
from .results import SEEDS
from .runs import Overwrite

app = typer.Typer(name="human", help="A study in which people compare and rate clips.", no_args_is_help=True)

Study = Annotated[Path, typer.Argument(metavar="DIR", help="A study: the --out of `lavie eval human make`.")]
RESULT, TABLES, PICTURE = "human.json", "tables.md", "human.png"


@app.command("make")
def make_command(
    models: Annotated[
        list[str], typer.Argument(metavar="A B [C ...]", help="A folder of clips for each model, or NAME=FOLDER.")
    ],
    prompts: Annotated[
        Path,
        typer.Option(
            help="What the clips show: a prompt on each line, for clips in this order; or a .jsonl of prompt and name,"
            " as the prompts.jsonl of `lavie sample` and its --jobs."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the study. Raters get its page/ and nothing else.")],
    raters: Annotated[int, typer.Option(help="Places for raters, an even number.")] = 30,
    pairs: Annotated[int, typer.Option(help="Pairs that a rater compares.")] = 50,
    ratings: Annotated[int, typer.Option(help="Clips that a rater rates; 0 for none.")] = 15,
    golden: Annotated[
        Literal["noise", "frozen"],
        typer.Option(help="The worse copy in golden pairs: under noise, or its first frame."),
    ] = "noise",
    fps: Annotated[float, typer.Option(min=0.1, max=1000, help="Frames per second of folders of frames.")] = 8,
    seed: Annotated[
        int | None, typer.Option(help="Of all that is random. Default: drawn, and kept in the key.", **SEEDS)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a study of two or more models: a page that needs no network, blinded clips, and a key for you alone."""
    from ..evaluation.human.key import ANSWERS, CLIPS, KEY, PAGE, write_key
    from ..evaluation.human.plan import Design
    from ..evaluation.human.sources import find_sources, named_folders
    from ..evaluation.human.study import is_of_study, make_study, require_apart
    from ..pages.human.build import write_page

    try:
        design = Design(raters=raters, pairs=pairs, ratings=ratings, golden=golden)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"--{fault['loc'][0]}: {fault['msg']}") from None
    if (out / ANSWERS).exists():
        raise ConfigError(f"{out / ANSWERS} holds answers of raters: give another --out")
    require_free(out / KEY, out / PAGE, overwrite=overwrite, replaceable=is_of_study)
    require_writable(out / KEY, out / PAGE / CLIPS / "clip.mp4")
    folders = named_folders(models)
    require_apart(out, folders)
    sources = find_sources(folders, prompts)
    (out / KEY).unlink(missing_ok=True)
    if (out / PAGE).is_dir():
        shutil.rmtree(out / PAGE)

    try:
        with progress_bar(make_console(), "writing clips") as progress:
            drawn = secrets.randbits(32) if seed is None else seed
            key = make_study(out, sources, design, drawn, fps=fps, moved=progress)
    except BaseException:
        shutil.rmtree(out / PAGE, ignore_errors=True)  # without its key nobody could tell what it holds
        raise
    write_key(out / KEY, key)
    page = write_page(out, key)
    _tell_made(out, key, sources.passed)
    typer.echo(page)


def _tell_made(out: Path, key: Any, passed: dict[str, int]) -> None:
    """Print what a study asks, and what of the clips it does not show."""
    from ..evaluation.human.key import KEY, PAGE

    first = [trial for trial in key.trials.values() if trial.place == 0]
    pairs = [trial for trial in first if trial.kind != "rating"]
    shown = {(clip.model, clip.item) for clip in key.clips.values()}
    typer.echo(
        f"{len(key.models)} models, {len(key.items)} samples; each of {key.design.raters} raters compares {len(pairs)}"
        f" pairs and rates {len(first) - len(pairs)} clips"
    )
    left = len(key.models) * len(key.items) - len(shown)
    if left:
        typer.echo(f"{left} clips are shown to nobody: more --raters or --pairs would show them", err=True)
    for model, count in passed.items():
        typer.echo(f"{model}: {count} clips are of no prompt, and left out", err=True)
    typer.echo(
        f"give raters the folder {out / PAGE}, or run `lavie eval human serve {out}`; {out / KEY} stays with you"
    )


@app.command("serve")
def serve_command(
    study: Study,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for any.")] = 8765,
) -> None:
    """Show a study on http://127.0.0.1 and gather the answers in its answers.csv, until ^C."""
    from ..pages.human.serve import serve

    def tell(address: str) -> None:
        """Print where the study is."""
        print(f"{address} shows {study}; ^C ends it", flush=True)

    serve(study, port, tell)


@app.command("analyse")
def analyse_command(
    study: Study,
    out: Annotated[Path, typer.Option(help=f"Folder for {RESULT}, {TABLES} and {PICTURE}.")],
    answers: Annotated[
        list[Path] | None, typer.Argument(help="The raters' files; default: the answers.csv of a served study.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", **SEEDS)] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Tables 3 and 4 of the paper from the raters' answers, with intervals over raters and prompts."""
    targets = [out / name for name in (RESULT, TABLES, PICTURE)]
    require_free(*targets, overwrite=overwrite)
    require_writable(*targets)
    from ..evaluation.human.analyse import analyse
    from ..evaluation.human.answers import read_answers
    from ..evaluation.human.key import ANSWERS, read_key
    from ..evaluation.human.plot import plot_study
    from ..evaluation.human.tables import tables
    from ..evaluation.measured import write_result
    from ..files import replacing

    key = read_key(study)
    result = analyse(key, read_answers(answers or [study / ANSWERS], key), seed)
    text = tables(result)
    write_result(targets[0], result)
    with replacing(targets[1]) as temporary:
        temporary.write_text(text, encoding="utf-8")
    plot_study(result, targets[2])
    typer.echo(text)
    typer.echo("\n".join(map(str, targets)))
