"""`lavie sample`: short videos or images from a base network."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from ..config.names import SamplerName as Scheduler
from ..console import make_console
from .prompts import Prompt, PromptFile, read_prompts
from .runs import Checkpoint, Run, one_run


def sample(
    out: Annotated[Path, typer.Option(help="Where the samples go.")],
    run: Run = None,
    checkpoint: Checkpoint = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, help="Scale of classifier-free guidance; 1 switches it off, 0 ignores the prompt."),
    ] = None,
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
    from ..inference.generate import generate
    from ..inference.load import load_pipeline
    from ..inference.settings import BaseSettings

    prompts = read_prompts(prompt, prompt_file)
    pipeline, config = load_pipeline(one_run(run, checkpoint))
    settings = BaseSettings.of(
        config,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
        scheduler=scheduler,
        num_frames=frames,
        height=height,
        width=width,
        negative_prompt=negative_prompt,
    )
    with Progress(transient=True, console=make_console()) as progress:
        task = progress.add_task("sampling")
        paths = generate(
            pipeline,
            prompts,
            out,
            settings,
            num_per_prompt=num,
            overwrite=overwrite,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    typer.echo("\n".join(map(str, paths)))
