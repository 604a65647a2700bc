"""`lavie sample`: short videos or images from a base network."""

from pathlib import Path
from typing import Annotated

import typer

from ..config.names import SamplerName as Scheduler
from ..console import make_console, progress_bar
from ..errors import ConfigError
from .loras import Loras, LoraTextScale, read_loras
from .prompts import (
    Embedding,
    GridGuidance,
    GridSeeds,
    Preview,
    Prompt,
    PromptFile,
    on_grid,
    read_prompts,
    require_apart_from_grid,
    require_set_once,
)
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
        typer.Option(
            min=0, max=100, help="Scale of classifier-free guidance; 1 switches it off, 0 ignores the prompt."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the initial noise; default: 0.")] = None,
    scheduler: Annotated[Scheduler | None, typer.Option(help="How noise becomes a video.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames per clip, beyond the training length too; 1 draws images.")
    ] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    num: Annotated[int, typer.Option(min=1, help="Samples per prompt.")] = 1,
    negative_prompt: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Another setting, as prompt_chunks=2, clip_skip=2, cache_interval=3, freeu=[1.3,1.4,0.9,0.2] or "
            "prompt_syntax=plain; may be given several times.",
        ),
    ] = None,
    embedding: Embedding = None,
    grid_seeds: GridSeeds = None,
    grid_guidance: GridGuidance = None,
    preview: Preview = False,
    jobs: Annotated[
        Path | None,
        typer.Option(
            help="In place of prompts: JSON lines of prompt, name (the file to write, as cats/000.mp4) and index (which"
            " noise), as `lavie eval ucf101 prompts` writes them. Files that are there are not drawn again."
        ),
    ] = None,
    lora: Loras = None,
    lora_text_scale: LoraTextScale = None,
    overwrite: Annotated[bool, typer.Option(help="Replace samples that lie in --out.")] = False,
) -> None:
    """Draw videos (or images) from prompts. Settings that are not given are those of the training run.

    Under torchrun the ranks share the samples. A call that was cut short goes on where it stopped.
    """
    from ..config.load import validate
    from ..config.overrides import parse_overrides
    from ..files import require_writable
    from ..inference.cascade import fingerprint
    from ..inference.generate import generate, require_samples
    from ..inference.jobs import draw, read_jobs, require_jobs
    from ..inference.load import META, load_pipeline
    from ..inference.settings import BaseSettings
    from ..models.textual_inversion import add_words
    from ..run_folder import PROMPTS, find_stage

    if jobs and (prompt or prompt_file or num != 1 or grid_seeds or grid_guidance or preview):
        raise ConfigError(
            "--jobs says all that is drawn: leave out --prompt, --prompt-file, --num, --preview and the grid"
        )
    listed = read_jobs(jobs) if jobs else []
    prompts = [] if jobs else read_prompts(prompt, prompt_file, BaseSettings)
    prompts, columns = on_grid(prompts, grid_seeds, grid_guidance, num)
    flags = {
        "seed": seed,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "scheduler": scheduler,
        "num_frames": frames,
        "height": height,
        "width": width,
        "negative_prompt": negative_prompt,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    require_set_once(set_ or [])
    changes = parse_overrides(set_ or [], BaseSettings)
    if both := given.keys() & changes.keys():
        raise ConfigError(f"--set {min(both)}=...: a flag gives it too: leave one of them out")
    # Protocols give captions as they are, whose brackets weigh nothing.
    require_apart_from_grid(grid_seeds, grid_guidance, {**given, **changes})
    changes = {"seed": 0, **({"prompt_syntax": "plain"} if jobs else {}), **given, **changes}
    validate(BaseSettings, changes, "--set")
    folder = one_run(run, checkpoint)
    loras = read_loras(lora, lora_text_scale)
    require_writable(out / PROMPTS)

    # Prompts, words and what lies in --out are checked together before any weights are read.
    planned, config = load_pipeline(folder, loras=loras, device=META)
    settings = BaseSettings.of(config, **changes)
    words = add_words(planned.text_encoder, embedding or [])
    weights = fingerprint(find_stage(folder), loras) + (f" with {words}" if words else "")
    if jobs:
        require_jobs(listed, out, settings, weights=weights, overwrite=overwrite)
    else:
        require_samples(
            planned, prompts, out, settings, num_per_prompt=num, weights=weights, overwrite=overwrite, loras=loras
        )
    pipeline, _ = load_pipeline(folder, loras=loras)
    add_words(pipeline.text_encoder, embedding or [])
    with ranks(), progress_bar(make_console(), "sampling") as progress:
        if jobs:
            drawn = draw(pipeline, listed, out, settings, weights=weights, overwrite=overwrite, progress=progress)
            typer.echo(f"{out}: {drawn} of {len(listed)} samples drawn here, the others were there")
            return
        paths = generate(
            pipeline,
            prompts,
            out,
            settings,
            num_per_prompt=num,
            weights=weights,
            overwrite=overwrite,
            loras=loras,
            columns=columns,
            preview=pipeline.preview() if preview else None,
            progress=progress,
        )
        if paths:
            typer.echo("\n".join(map(str, paths)))
