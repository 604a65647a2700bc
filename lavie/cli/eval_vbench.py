"""The commands `lavie eval vbench ...`: the plan of VBench's samples, scores without foreign weights, and totals."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from ..files import require_free, require_writable
from .progress import tell
from .ranks import ranks
from .results import with_interval
from .runs import Overwrite

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    from ..evaluation.measured import write_json
    from ..evaluation.vbench.dimensions import DIMENSIONS
    from ..evaluation.vbench.suite import jobs, manifest, read_suite
    from ..inference.jobs import write_jobs

    if out.suffix == ".json":
        raise ConfigError(f"--out {out}: wanted a .jsonl, or a folder")
    place = out if out.suffix == ".jsonl" else out / "jobs.jsonl"
    beside = place.with_suffix(".manifest.json")
    require_free(place, beside, overwrite=overwrite)
    require_writable(place, beside)
    names = _names(dimensions, tuple(DIMENSIONS))
    suite = read_suite(prompts)
    absent = [name for name in names if not suite.of([name])]
    if dimensions is not None and absent:
        raise ConfigError(f"--dimensions {dimensions}: no prompt of {prompts} is of {', '.join(absent)}: leave it out")
    plan = manifest(suite, names, flicker_samples)
    write_jobs(place, jobs(suite, names, flicker_samples))
    write_json(beside, plan)
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


@app.command("score")
def score_command(
    samples: Annotated[Path, typer.Argument(help="The folder of the samples.")],
    out: Annotated[Path, typer.Option(help="RESULTS.json, in VBench's layout; RESULTS.<dimension>.json beside it.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="VBench_full_info.json. Without it every clip counts, as in VBench's custom mode."),
    ] = None,
    dimensions: Annotated[
        str | None,
        typer.Option(
            help="Of temporal_flickering, blend, subject_consistency, background_consistency; default: all that can be."
        ),
    ] = None,
    dino: Annotated[
        Path | None, typer.Option(help="A DINO of transformers, as facebook/dino-vitb16: a folder. Others are proxies.")
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(help="CLIP ViT-B/32: a folder of transformers or OpenAI's .pt. Other CLIPs are proxies."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score what is there, where files of VBench's are missing.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Score the dimensions that need no foreign weights, with how much the clips move.

    Under torchrun the ranks share the clips.
    """
    from ..evaluation.vbench.protocol import BLEND, BY_FRAMES, PROMPTS_OF

    if out.suffix != ".json":
        raise ConfigError(f"--out {out}: wanted a .json")
    networks = {"subject_consistency": dino, "background_consistency": clip}
    able = tuple(name for name in PROMPTS_OF if name not in BY_FRAMES or networks.get(name))
    names = able if dimensions is None else _scored(dimensions, able, BLEND)
    places = [out, *(_beside(out, name) for name in names)]
    require_free(*places, overwrite=overwrite)
    require_writable(*places)

    from ..evaluation.measured import write_json, write_result
    from ..evaluation.vbench.encoders import ClipFrames, Dino, FrameEncoder
    from ..evaluation.vbench.score import called, score, vbench_layout
    from ..evaluation.vbench.suite import read_suite

    suite = read_suite(prompts) if prompts else None
    with ranks():
        from ..distributed import is_main
        from ..inference.load import default_device

        device = default_device()
        encoders: dict[str, FrameEncoder] = {}
        if dino is not None and "subject_consistency" in names:
            encoders["subject_consistency"] = Dino(dino, device)
        if clip is not None and "background_consistency" in names:
            encoders["background_consistency"] = ClipFrames(clip, device)
        # Only now it is known which networks are proxies, whose results have other names.
        places = [_beside(out, called(name, encoders.get(name))) for name in names]
        require_free(*places, overwrite=overwrite)
        require_writable(*places)
        results = score(samples, names, suite, encoders, partial=partial, moved=tell("clips"))
        if is_main():
            for name, result in results.items():
                write_result(_beside(out, name), result)
            write_json(out, vbench_layout(results, samples))
            _print_scores(results, out)


def _scored(dimensions: str, able: tuple[str, ...], blend: str) -> tuple[str, ...]:
    """Return the dimensions of an option that are to be scored. Raises ConfigError for what cannot be."""
    needs = {"subject_consistency": "--dino FOLDER", "background_consistency": "--clip FOLDER"}
    asked = [blend if name.strip() == "blend" else name.strip() for name in dimensions.split(",") if name.strip()]
    for name in asked:
        if name in needs and name not in able:
            raise ConfigError(f"--dimensions {name}: needs {needs[name]}")
        if name not in able:
            raise ConfigError(
                f"--dimensions {name}: wanted of temporal_flickering, blend, subject_consistency (--dino), "
                "background_consistency (--clip); the others need networks that only VBench itself runs"
            )
    if not asked:
        raise ConfigError("--dimensions is empty: leave it out to score all that can be")
    return tuple(name for name in able if name in asked)


def _beside(out: Path, dimension: str) -> Path:
    """Return the file of a dimension's result beside that of all."""
    return out.with_suffix(f".{dimension}.json")


def _print_scores(results: "Mapping[str, dict[str, Any]]", out: Path) -> None:
    """Print each score with its interval and the motion of its clips, and what to know of it."""
    notes: dict[str, list[str]] = {}
    for name, result in results.items():
        moves = result["motion"]
        typer.echo(f"{with_interval(name, result)}, {result['n']} clips, protocol {result['protocol_hash']}")
        typer.echo(
            f"  their motion: {moves['difference']:.2f} of 255 levels a frame, displacement "
            f"{moves['displacement']:.2f} px, top 5 % {moves['displacement_top']:.2f} px (short side 256)"
        )
        for note in result["notes"]:
            notes.setdefault(note, []).append(name)
    for note, names in notes.items():
        typer.echo(f"note ({', '.join(names)}): {note}", err=True)
    typer.echo(f"{out}, in VBench's layout; by dimension: {', '.join(_beside(out, name).name for name in results)}")


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
