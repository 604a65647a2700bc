"""The command `lavie`: data, sampling, formats and scores. Training is `train.py`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from ..config.train import SamplerName as Scheduler
from ..errors import LavieError
from ..run_folder import METRICS
from .data import app as data_app
from .doctor import app as doctor_app
from .formats import export_command, import_command
from .generate import generate, read_prompts
from .score import score

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.add_typer(data_app)
app.add_typer(doctor_app)


@app.command()
def sample(
    checkpoint: Annotated[
        Path, typer.Option(help="A run's output_dir (its newest checkpoint), a checkpoint-<step> or exported folder.")
    ],
    out: Annotated[Path, typer.Option(help="Where the samples go.")],
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw; may be given several times.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A text file with one prompt per line.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Scale of classifier-free guidance.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial noise.")] = 0,
    scheduler: Annotated[Scheduler | None, typer.Option(help="How noise becomes a video.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames per clip, beyond the training length too; 1 draws images.")
    ] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    num: Annotated[int, typer.Option(min=1, help="Samples per prompt.")] = 1,
    negative_prompt: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace samples that lie in --out.")] = False,
) -> None:
    """Draw videos (or images) from prompts. Settings that are not given are those of the training run."""
    from ..inference.base import SampleSettings, generate, load_pipeline

    prompts = read_prompts(prompt, prompt_file)
    pipeline, config = load_pipeline(checkpoint)
    settings = SampleSettings.of(
        config,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
        scheduler=scheduler,
        num_frames=frames,
        height=height,
        width=width,
        num_per_prompt=num,
        negative_prompt=negative_prompt,
    )
    with Progress(transient=True) as progress:
        task = progress.add_task("sampling")
        paths = generate(
            pipeline,
            prompts,
            out,
            settings,
            overwrite=overwrite,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    typer.echo("\n".join(map(str, paths)))


app.command()(score)
app.command()(generate)
app.command("export")(export_command)
app.command("import")(import_command)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A run's output_dir.")],
    out: Annotated[Path | None, typer.Option(help="The PNG; default: losses.png in the run's folder.")] = None,
) -> None:
    """Draw a run's loss curves."""
    from ..evaluation.curves import plot_losses

    target = out or run / "losses.png"
    plot_losses(run / METRICS, target)
    typer.echo(target)


def main() -> None:
    """Run the command; user errors, and files that cannot be read or written, print their message and exit with 1."""
    try:
        app()
    except (LavieError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
