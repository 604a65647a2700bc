"""`lavie plan`: what a run would take of a cluster, before it is started."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..files import require_free
from .runs import ConfigWords, Overwrite


def plan(
    words: ConfigWords,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the cluster.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of each node.")] = 8,
    gpu: Annotated[
        str, typer.Option(help="What they are: h100, h200, a100, 4090, ...; a wrong name lists all.")
    ] = "h100",
    network: Annotated[
        str, typer.Option(help="Between the nodes: ib400 (InfiniBand, an adapter a GPU), eth100 (one a node), ...")
    ] = "ib400",
    deepspeed: Annotated[str, typer.Option(help="DeepSpeed's settings.")] = "configs/zero3.json",
    measure_host: Annotated[
        bool,
        typer.Option(
            "--measure-host", help="Time launches on this machine, and plan with its times: a minute or more, one core."
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Draw the scaling into this PNG too.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Estimate memory, time, traffic and scaling of a run on a cluster, and what to change. Nothing is started."""
    from ..config.load import load_config
    from ..config.overrides import read_run
    from ..config.shipped import find_config
    from ..training.deepspeed import resolve_json, zero_stage
    from ..training.planning.forecast import Cluster
    from ..training.planning.hardware import gpu_named, network_named
    from ..training.planning.plot import draw_scaling
    from ..training.planning.report import SCALED, plan_lines, scaling

    if out:
        require_free(out, overwrite=overwrite)
    cluster = Cluster(gpu_named(gpu), network_named(network), nodes, gpus_per_node)
    [name], overrides = read_run(words)

    # What a run computes in is decided by its GPUs, not by the machine of the plan.
    config = load_config(find_config(name), overrides)
    if config.mixed_precision == "auto":
        config = config.model_copy(update={"mixed_precision": cluster.gpu.half})
    settings = resolve_json(find_config(deepspeed, "--deepspeed"), config, cluster.ranks)
    if out and zero_stage(settings) not in SCALED:
        raise ConfigError(f"--out draws ZeRO-2 and ZeRO-3, and {deepspeed} has stage {zero_stage(settings)}")

    if measure_host:
        from ..training.planning.host import host_lines, measure

        measured = measure(config)
        typer.echo("\n".join([*host_lines(measured), ""]))
        cluster = cluster._replace(host=measured.host)
    lines = plan_lines(config, settings, cluster)
    if out:
        draw_scaling(scaling(config, settings, cluster), zero_stage(settings), cluster, out)
        lines.append(f"plot: {out}")
    typer.echo("\n".join(lines))
