"""The command `lavie data plan`: which data a run will see, and how often."""

from pathlib import Path
from typing import Annotated

import typer

from ..files import require_free
from .runs import ConfigWords, Overwrite


def plan_command(
    words: ConfigWords,
    world_size: Annotated[int, typer.Option(min=1, help="GPUs of the run.")] = 1,
    global_batch: Annotated[
        int | None, typer.Option(min=1, help="Clips per step, in place of the config's: those of a run to continue.")
    ] = None,
    max_epochs: Annotated[
        float | None, typer.Option(min=0, help="Refuse a plan that repeats a dataset more often.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Draw the shares over the run into this PNG too.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Tell what a run will see: shares, repeats, bytes and hours of each dataset. Impossible plans are refused."""
    from ..config.load import load_config
    from ..config.overrides import read_run
    from ..config.shipped import find_config
    from ..data.order.buckets import load_buckets
    from ..data.order.held_out import held_out_text
    from ..data.order.long_captions import count_long
    from ..data.order.plan import check_global_batch, make_plan
    from ..data.order.plan_report import draw_plan, plan_text
    from ..models.text_encoder import caption_limit

    if out:
        require_free(out, overwrite=overwrite)
    [config], overrides = read_run(words)

    # The global batch of the config, or that of a run to continue, which is reached by accumulation.
    run = load_config(find_config(config), overrides)
    accumulation = run.gradient_accumulation_steps
    if global_batch is not None:
        accumulation = check_global_batch(global_batch, run.train_batch_size, world_size)
    total = run.train_batch_size * accumulation * world_size

    validation = held_out_text(run.data)

    # The plot is written before the text is printed, which names it.
    buckets = load_buckets(run.data, run.data.train, run.seed)
    plan = make_plan(
        run.data,
        seed=run.seed,
        steps=run.max_train_steps,
        global_batch=total,
        max_epochs=max_epochs,
        buckets=buckets,
    )
    limit = caption_limit(run.text_encoder, run.pretrained_model_name_or_path)
    _, long = count_long(buckets.datasets, run.data, limit)
    batch = f"{run.train_batch_size} x {accumulation} x {world_size} = {total}"
    if out:
        draw_plan(plan, out)
    text = f"{plan_text(plan)}\n{long}\n{validation}\nglobal batch: {batch} clips"
    typer.echo(f"{text}\nplot: {out}" if out else text)
