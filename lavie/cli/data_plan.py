"""The command `lavie data plan`: which data a run will see, and how often."""

from pathlib import Path
from typing import Annotated

import typer

from ..config.load import load_config
from ..data.order.held_out import held_out_text
from ..data.order.plan import check_global_batch, make_plan
from ..data.order.plan_report import draw_plan, plan_text


def plan_command(
    config: Annotated[Path, typer.Argument(help="The run's YAML.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value", help="Changes of it.")] = None,
    world_size: Annotated[int, typer.Option(min=1, help="GPUs of the run.")] = 1,
    global_batch: Annotated[
        int | None, typer.Option(min=1, help="Clips per step, in place of the config's: those of a run to continue.")
    ] = None,
    max_epochs: Annotated[
        float | None, typer.Option(min=0, help="Refuse a plan that repeats a dataset more often.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The plot, a PNG.")] = Path("plan.png"),
) -> None:
    """Tell what a run will see: shares, repeats, bytes and hours of each dataset. Impossible plans are refused."""
    # The global batch of the config, or that of a run to continue, which is reached by accumulation.
    run = load_config(config, overrides or [])
    accumulation = run.gradient_accumulation_steps
    if global_batch is not None:
        accumulation = check_global_batch(global_batch, run.train_batch_size, world_size)
    total = run.train_batch_size * accumulation * world_size

    validation = held_out_text(run.data)

    # The plot is written before the text is printed, which names it.
    plan = make_plan(run.data, seed=run.seed, steps=run.max_train_steps, global_batch=total, max_epochs=max_epochs)
    draw_plan(plan, out)
    batch = f"{run.train_batch_size} x {accumulation} x {world_size} = {total}"
    typer.echo(f"{plan_text(plan)}\n{validation}\nglobal batch: {batch} clips\nplot: {out}")
