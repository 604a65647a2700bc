"""`lavie data plan`: what a run will see of its data."""

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .config_file import load_config
from .data.plan import Plan, check_global_batch, draw_plan, make_plan


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
    run = load_config(config, overrides or [])
    accumulation = run.gradient_accumulation_steps
    if global_batch is not None:
        accumulation = check_global_batch(global_batch, run.train_batch_size, world_size)
    total = run.train_batch_size * accumulation * world_size
    plan = make_plan(run.data, seed=run.seed, steps=run.max_train_steps, global_batch=total, max_epochs=max_epochs)
    draw_plan(plan, out)
    console = Console(width=max(100, Console().width))  # a log has 80 columns, too few for the numbers
    console.print(_table(plan))
    batch = f"{run.train_batch_size} x {accumulation} x {world_size} = {total} clips"
    shards = {part.name: 0 for part in plan.parts}
    for part in plan.parts:
        shards[part.name] = max(shards[part.name], part.shards)
    lines = [
        f"steps: {run.max_train_steps:,}; a step: {batch} and {total * plan.num_images} images",
        f"read per step: {_size(plan.step_bytes)}, by {world_size} ranks together; in the run: "
        f"{_size(plan.step_bytes * run.max_train_steps)}",
        f"shards: every node reads from all {sum(shards.values())}, since the order is one for all ranks",
        f"video shown: {plan.hours:,.2f} h",
        f"plot: {out}",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _table(plan: Plan) -> Table:
    """first and last: its share at the first and the last step; epochs: how often it is repeated; size: of an epoch."""
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("dataset", "kind"):
        table.add_column(name)
    for name in ("samples", "shards", "first", "last", "taken", "epochs", "size"):
        table.add_column(name, justify="right")
    for part in plan.parts:
        table.add_row(
            escape(part.name or "data.train"),
            part.kind,
            f"{part.samples:,}",
            f"{part.shards:,}",
            f"{part.shares[0]:.1%}",
            f"{part.shares[-1]:.1%}",
            f"{part.taken[-1]:,}",
            f"{part.epochs[-1]:.2f}",
            _size(part.sample_bytes * part.samples),
        )
    return table


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
