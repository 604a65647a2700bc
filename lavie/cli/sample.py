"""`lavie sample`: short videos or images from a base network."""

from pathlib import Path
from typing import Annotated

import typer

from ..config.names import SamplerName as Scheduler
from ..console import make_console, progress_bar
from ..errors import ConfigError
from .prompts import Prompt, PromptFile, read_prompts
from .ranks import ranks
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
    jobs: Annotated[
        Path | None,
        typer.Option(
            help="In place of prompts: JSON lines of prompt, name (the file to write, as cats/000.mp4) and index (which"
            " noise), as `lavie eval ucf101 prompts` writes them. Files that are there are not drawn again."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace samples that lie in --out.")] = False,
) -> None:
    """Draw videos (or images) from prompts. Settings that are not given are those of the training run.

    Under torchrun the ranks share the samples.
    """
    from ..inference.cascade import fingerprint
    from ..inference.generate import generate
    from ..inference.jobs import draw, read_jobs
    from ..inference.load import load_pipeline
    from ..inference.settings import BaseSettings
    from ..run_folder import find_stage

    if jobs and (prompt or prompt_file or num != 1):
        raise ConfigError("--jobs says all that is drawn: leave out --prompt, --prompt-file and --num")
    listed = read_jobs(jobs) if jobs else []
    prompts = [] if jobs else read_prompts(prompt, prompt_file)
    folder = one_run(run, checkpoint)
    pipeline, config = load_pipeline(folder)
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
    with ranks(), progress_bar(make_console(), "sampling") as progress:
        if jobs:
            weights = fingerprint(find_stage(folder))
            drawn = draw(pipeline, listed, out, settings, weights=weights, overwrite=overwrite, progress=progress)
            typer.echo(f"{out}: {drawn} of {len(listed)} samples drawn here, the others were there")
            return
        paths = generate(pipeline, prompts, out, settings, num_per_prompt=num, overwrite=overwrite, progress=progress)
        if paths:
            typer.echo("\n".join(map(str, paths)))
