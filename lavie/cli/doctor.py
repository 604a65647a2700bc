"""The command `lavie doctor cluster`: whether the nodes of a run are fit to start it."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from ..console import make_console

if TYPE_CHECKING:
    from ..cluster.preflight import Report

app = typer.Typer(name="doctor", help="Find what would stop a run.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Make typer keep `cluster` as a command of its own, which it would not do for the only command of an app."""


@app.command(context_settings={"ignore_unknown_options": True})
def cluster(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [key=value ...]",
            help="The run's YAML, or the name of a shipped config, and changes of it. Default: configs/base.yaml.",
        ),
    ] = None,
    deepspeed: Annotated[str, typer.Option(help="DeepSpeed's settings.")] = "configs/zero3.json",
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for all ranks.")] = 20.0,
) -> None:
    """Compare the nodes of a run: reach, code, versions, config, shards, clocks. Exits with 1 if they differ.

    Every run does it at its start. To do only this, start it as the run is started, on the same nodes:

    deepspeed --hostfile hosts --no_python --no_local_rank $(which lavie) doctor cluster configs/base.yaml

    torchrun --nnodes 2 ... --no-python lavie doctor cluster configs/base.yaml
    """
    from ..cluster.preflight import examine
    from ..cluster.rank_facts import gather_facts
    from ..cluster.rendezvous import meet
    from ..config.load import load_config
    from ..config.overrides import read_run
    from ..config.shipped import find_config
    from ..launcher import find_place

    config, overrides = read_run(words or [], ("CONFIG.yaml",), optional=True)
    run = load_config(find_config(*config or ("configs/base.yaml",)), overrides)
    settings, place = find_config(deepspeed, "--deepspeed"), find_place()
    if place.world_size == 1:
        typer.echo("one rank: nothing to compare. Start it with the launcher of the run; --help has examples")
        return
    store, waited = meet(place, wait, patience=wait)
    report = examine(store, place, gather_facts(place, run, settings, waited), wait, patience=wait)
    if place.rank == 0:
        _show(report, place.world_size)
    if report.findings:
        raise typer.Exit(1)


def _show(report: "Report", world_size: int) -> None:
    """Print a row per node and then the findings, or that all ranks agree."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("node")
    for name in ("first rank", "late", "clock"):
        table.add_column(name, justify="right")
    for node in report.nodes:
        clock = "reference" if node.skew is None else f"{node.skew * 1e3:+.1f} ms (within {node.error * 1e3:.1f} ms)"
        table.add_row(node.name, str(node.first_rank), f"{node.late:.1f} s", clock)
    console = make_console(width=max(100, make_console().width))
    console.print(table)
    for finding in report.findings:
        what = "error: " if finding.fatal else "warning: "
        console.print(what + finding.message, soft_wrap=True)
    if not report.findings:
        console.print(f"{world_size} ranks agree")
