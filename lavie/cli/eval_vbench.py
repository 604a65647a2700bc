"""The commands `lavie eval vbench ...`: the plan of VBench's samples, scores without foreign weights, and totals."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from ..files import replacing, require_free
from .runs import Overwrite

if TYPE_CHECKING:
    from ..evaluation.vbench.totals import Totals

app = typer.Typer(name="vbench", help="VBench: its samples, its scores, its totals.", no_args_is_help=True)

Prompts = Annotated[Path, typer.Option(help="VBench's prompts: VBench_full_info.json, which the wheel vbench holds.")]


@app.command("prepare")
def prepare_command(
    prompts: Prompts,
    out: Annotated[Path, typer.Option(help="A .jsonl for `lavie sample --jobs`, or a folder: jobs.jsonl in it.")],
    dimensions: Annotated[
        str | None, typer.Option(help="Only the prompts of these dimensions, with commas. By default all sixteen.")
    ] = None,
    flicker_samples: Annotated[
        int,
        typer.Option(min=5, max=25, help="Clips of a prompt of temporal flickering, for VBench's filter."),
    ] = 25,
    overwrite: Overwrite = False,
) -> None:
    """Write the jobs that draw VBench's samples under its file names, and beside them a manifest."""
    from ..evaluation.vbench.dimensions import DIMENSIONS
    from ..evaluation.vbench.suite import jobs, manifest, read_suite
    from ..inference.jobs import write_jobs

    if out.suffix == ".json":
        raise ConfigError(f"--out {out}: wanted a .jsonl, or a folder")
    place = out if out.suffix == ".jsonl" else out / "jobs.jsonl"
    beside = place.with_suffix(".manifest.json")
    require_free(place, beside, overwrite=overwrite)
    names = _names(dimensions, tuple(DIMENSIONS))
    suite = read_suite(prompts)
    plan = manifest(suite, names, flicker_samples)
    if not plan["files"]:
        raise ConfigError(f"--dimensions {dimensions}: no prompt of {prompts} is of them")
    write_jobs(place, jobs(suite, names, flicker_samples))
    with replacing(beside) as temporary:
        temporary.write_text(json.dumps(plan, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(f"{place}: {plan['files']:,} files of {plan['prompts']:,} prompts ({suite.entries:,} entries)")
    for name, counts in plan["dimensions"].items():
        typer.echo(f"  {name:24}{counts['prompts']:4} prompts {counts['files']:6,} files")
    for note in plan["notes"]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"manifest: {beside}")


def _names(dimensions: str | None, choice: tuple[str, ...]) -> tuple[str, ...]:
    """Return the dimensions of an option, in the order of `choice`. Raises ConfigError for one that is not in it."""
    if dimensions is None:
        return choice
    asked = [name.strip() for name in dimensions.split(",") if name.strip()]
    wrong = [name for name in asked if name not in choice]
    if wrong or not asked:
        raise ConfigError(f"--dimensions {dimensions}: wanted of {', '.join(choice)}")
    return tuple(name for name in choice if name in asked)


@app.command("total")
def total_command(
    results: Annotated[list[Path], typer.Argument(help="VBench's *_eval_results.json, or percentages by name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in percent.")] = False,
) -> None:
    """Quality, semantic and total score of VBench, by its constants, from the scores of its dimensions."""
    from ..evaluation.vbench.totals import read_scores, totals

    scores, other = read_scores(results)
    found = totals(scores)
    if other:
        typer.echo(f"note: not of VBench's sixteen dimensions, and not counted: {', '.join(other)}", err=True)
    if found.missing:
        typer.echo(
            f"note: {len(found.missing)} of 16 dimensions are missing, and VBench counts each as a score of 0, so "
            f"these totals are no model's: {', '.join(found.missing)}",
            err=True,
        )
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print_totals(found)


def _print_totals(found: "Totals") -> None:
    """Print scores as given and normalised, and the totals, in percent."""
    typer.echo(f"{'':24}{'score':>8}{'normalised':>12}")
    for name, value in found.normalised.items():
        score = f"{100 * found.scores[name]:8.2f}" if name in found.scores else f"{'missing':>8}"
        typer.echo(f"{name:24}{score}{100 * value:12.2f}")
    for name in ("quality", "semantic", "total"):
        typer.echo(f"{name:24}{'':8}{100 * getattr(found, name):12.2f}")
