"""The commands `lavie doctor`: whether a run's nodes are fit to start it, and whether their cores feed its GPUs."""

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from ..console import make_console
from .runs import ConfigWords

if TYPE_CHECKING:
    from ..cluster.preflight import Report
    from ..config.train import TrainConfig

app = typer.Typer(name="doctor", help="Find what would stop a run.", no_args_is_help=True)


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


@app.command(context_settings={"ignore_unknown_options": True})
def data(
    words: ConfigWords,
    samples_per_s: Annotated[
        float | None, typer.Option(min=0, help="Clips that a GPU trains on in a second. Default: what lavie plan says.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="Whose rate is planned: h100, h200, a100, 4090, ...")] = "h100",
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs of this machine. Default: those found here.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows that are decoded, in the order of the run.")] = 12,
) -> None:
    """Decode some of a run's own clips, and say how many cores and processes its GPUs need for data.

    What is measured is the time of a core of this machine; decoding on a GPU (data.decoder) is not.
    """
    import torch

    from ..config.load import load_config
    from ..config.overrides import read_run
    from ..config.shipped import find_config
    from ..data.feed.needs import Need, by_source, measure_rows
    from ..launcher import local_world_size

    [name], overrides = read_run(words)
    config = load_config(find_config(name), overrides)
    if config.data.cache:
        typer.echo("data.cache is set: training decodes nothing, and a process or two a rank read the cache")
        return
    costs = measure_rows(config.data, config.seed, rows, config.low_resolution)
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("source of the clip")
    for column in ("rows", "ms of a core"):
        table.add_column(column, justify="right")
    for source, (count, seconds) in by_source(costs).items():
        table.add_row(source, str(count), f"{seconds * 1e3:.0f}")
    make_console().print(table)

    mean = sum(cost.seconds for cost in costs) / len(costs)
    images = f" with {config.data.num_images} images" if config.data.num_images else ""
    sizes = ", ".join(size.name for size in config.data.sizes)
    typer.echo(f"a row is a clip of {sizes}{images}: {mean * 1e3:.0f} ms of a core, {1 / mean:.2g} rows/s a core")
    rate, source = samples_per_s, "--samples-per-s"
    if rate is None:
        rate, source = _planned_rate(config, gpu), f"planned for {gpu}, not measured"
    here = gpus or torch.cuda.device_count() or local_world_size()
    need = Need(mean, rate, len(os.sched_getaffinity(0)), here)
    typer.echo(
        f"a GPU trains on {rate:.3g} rows/s ({source}): {need.decoding:.1f} cores for decoding, "
        f"data.num_workers={need.workers}\n"
        f"this machine: {need.cores} cores for {need.gpus} GPU{'s' if need.gpus > 1 else ''}: {need.verdict()}"
    )


def _planned_rate(config: "TrainConfig", name: str) -> float:
    """Return the clips a second of one GPU by itself, as `lavie plan` has them."""
    from ..config.shipped import find_config
    from ..training.deepspeed import resolve_json
    from ..training.planning.forecast import Cluster, forecast
    from ..training.planning.hardware import gpu_named, network_named

    cluster = Cluster(gpu_named(name), network_named("ib400"), 1, 1)
    if config.mixed_precision == "auto":
        config = config.model_copy(update={"mixed_precision": cluster.gpu.half})
    settings = resolve_json(find_config("configs/zero3.json", "--deepspeed"), config, 1)
    return forecast(config, settings, cluster).clips_per_second


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
