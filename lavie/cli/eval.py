"""The commands `lavie eval ...`: distances between sets of clips, and what is needed to measure as the papers did."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from ..files import require_free, require_writable
from .eval_clip import aesthetic_command, clipsim_app
from .eval_human import app as human
from .eval_vbench import app as vbench
from .progress import tell
from .ranks import ranks
from .results import MOST_FRAMES, SEEDS, print_origin, require_places, with_interval
from .runs import Overwrite

if TYPE_CHECKING:
    from ..evaluation.fvd.extractors import Extractor

app = typer.Typer(name="eval", help="Measure clips, by protocols that stand beside every number.", no_args_is_help=True)
ucf101 = typer.Typer(name="ucf101", help="The UCF101 protocol of the paper.", no_args_is_help=True)
app.add_typer(ucf101)
app.add_typer(clipsim_app)
app.command("aesthetic")(aesthetic_command)
app.add_typer(vbench)
app.add_typer(human)

Sources = "folders of videos, GIFs or folders of frames, .tar shards, or files of features; may be given several times"
Weights = Annotated[Path | None, typer.Option(help="I3D of Kinetics-400 as .safetensors, float16 or float32.")]
Out = Annotated[Path, typer.Option(help="The result, a .json.")]


@app.command("fvd")
def fvd_command(
    real: Annotated[list[Path], typer.Option(help=f"Real clips: {Sources}.")],
    fake: Annotated[list[Path], typer.Option(help=f"Sampled clips: {Sources}.")],
    out: Out,
    weights: Weights = None,
    preset: Annotated[
        str, typer.Option(help="lavie, original, tats, stylegan-v, cd-fvd, or a .yaml file with a protocol.")
    ] = "lavie",
    frames: Annotated[
        int | None, typer.Option(min=1, max=MOST_FRAMES, help="Frames of a clip; default: the preset's, 16.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of random clip starts and draws; default: the preset's, 0.", **SEEDS)
    ] = None,
    split: Annotated[
        list[Path] | None,
        typer.Option(help="A text file that lists which clips of the folder --real count, as UCF101's trainlist."),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="A .safetensors that keeps the features: a call that was cut goes on with it.")
    ] = None,
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Measure the fakes with shuffled frames too: did FVD see any motion?")
    ] = False,
    extractor: Annotated[
        Path | None,
        typer.Option(
            help="In place of I3D: a TorchScript module, (B, 3, F, h, w) in [-1, 1] -> (B, D). It runs as code."
        ),
    ] = None,
    frame_extractor: Annotated[
        Path | None,
        typer.Option(help="Also a Fréchet distance of single frames: a TorchScript module, (N, 3, h, w) -> (N, D)."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Fréchet video distance of two sets of clips, with its interval, KVD, and its line in 1 / n.

    Under torchrun the ranks share the clips.
    """
    if (weights is None) == (extractor is None):
        raise ConfigError("--weights FILE (I3D) or --extractor FILE (your own): give one of them")
    require_places(out, features, overwrite)
    from ..evaluation.fvd.extractors import I3DLogits, Scripted
    from ..evaluation.fvd.protocol import load_protocol
    from ..evaluation.fvd.score import fvd
    from ..evaluation.measured import write_result

    protocol = load_protocol(preset, frames, seed)
    with ranks():
        from ..distributed import is_main
        from ..inference.load import default_device

        device = default_device()
        network: Extractor = I3DLogits(weights, device) if weights else Scripted(extractor, device)  # type: ignore[arg-type]
        by_frame = Scripted(frame_extractor, device, frames=True) if frame_extractor else None
        result = fvd(
            real,
            fake,
            protocol,
            network,
            preset=preset,
            frames=by_frame,
            shuffled=shuffled,
            splits=split or (),
            keep=features,
            progress=tell,
        )
        if is_main():
            write_result(out, result)
            _print_fvd(result, out)


def _print_fvd(result: dict[str, Any], out: Path) -> None:
    """Print what a result says."""
    n = result["n"]
    line = with_interval("FVD", result, digits=2)
    typer.echo(f"{line}, {n['real']} real and {n['fake']} fake clips, preset {result['preset']}")
    if result["extrapolated"] is not None:
        sizes = ", ".join(f"{part['fvd']:.1f} at {part['fake']}" for part in result["sizes"])
        typer.echo(f"by the number of clips: {sizes}; line to infinitely many: {result['extrapolated']:.2f}")
    typer.echo(f"KVD {result['kvd']:.4f}")
    if "fvd_shuffled" in result:
        typer.echo(f"FVD with the fakes' frames shuffled {result['fvd_shuffled']:.2f}")
    if "frames" in result:
        typer.echo(f"Fréchet distance of single frames {result['frames']['frechet']:.4f}")
    print_origin(result, out)


@app.command("compare")
def compare_command(
    a: Annotated[Path, typer.Argument(help="A result of `lavie eval`.")],
    b: Annotated[Path, typer.Argument(help="Another one, of the same protocol and number of clips.")],
    out: Annotated[Path | None, typer.Option(help="The difference, a .json.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """The difference of two results, paired where that can be; refused where they were not measured alike."""
    from ..evaluation.measured import compare, read_result, write_result

    if out is not None:
        require_free(out, overwrite=overwrite)
        require_writable(out)
    found = compare(read_result(a), read_result(b))
    line = f"{found['metric']}: {found['a']:.4f} and {found['b']:.4f}, difference {found['difference']:+.4f}"
    if found["paired_by"]:
        line += " (95 % {:+.4f} to {:+.4f}".format(*found["interval"]) + f", {found['pairs']} {found['paired_by']})"
        line += f": {found['verdict']}"
    typer.echo(line)
    if out is not None:
        write_result(out, {"value": found["difference"], **found})


@ucf101.command("prompts")
def ucf101_prompts(
    out: Annotated[Path, typer.Option(help="The jobs, a .jsonl for `lavie sample --jobs`.")],
    samples: Annotated[int, typer.Option(min=1, max=10_000, help="Samples of each class.")] = 100,
    overwrite: Overwrite = False,
) -> None:
    """Write the jobs of the protocol: 101 class names, 100 samples of each."""
    from ..evaluation.ucf101 import jobs
    from ..inference.jobs import write_jobs

    require_free(out, overwrite=overwrite)
    require_writable(out)
    typer.echo(f"{out}: {write_jobs(out, jobs(samples))} jobs")
