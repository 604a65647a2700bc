"""The command `lavie data cache`: a run's latents and text features are computed once, before training."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import Progress, TaskID

from ..console import make_console
from ..errors import ConfigError
from .tables import print_counts, print_first


def cache_command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG.yaml OUT [key=value ...]",
            help="The run's YAML, or the name of a shipped config; the folder for the cache, the run's data.cache; and "
            "changes of the YAML.",
        ),
    ],
    device: Annotated[str | None, typer.Option(help="As cuda:1 or cpu; default: a GPU of this rank.")] = None,
    dtype: Annotated[Literal["float16", "bfloat16", "float32"], typer.Option(help="Of what is stored.")] = "float16",
    batch: Annotated[int, typer.Option(min=1, help="Clips that are encoded at a time.")] = 8,
) -> None:
    """Encode every cut of data.train that OUT lacks; train with data.cache=OUT afterwards. data.cuts says how many.

    Run again after a change of the data, or after an interruption: what is there is kept. Ranks share the work:
    `torchrun --nproc_per_node 8 --no-python lavie data cache ...`, or `mpirun lavie data cache ...`.
    """
    from ..config.load import load_config
    from ..config.overrides import read_run
    from ..config.shipped import find_config

    [config, folder], overrides = read_run(words, ("CONFIG.yaml", "OUT"))
    if Path(config).is_dir() or folder.endswith((".yaml", ".yml")):
        raise ConfigError(f"CONFIG.yaml is {config} and OUT {folder}: give the config first, then the folder")
    run, out = load_config(find_config(config), overrides), Path(folder)

    import torch

    from ..launcher import launched_rank, planned_world_size
    from ..training.entry_encoders import encoding_device
    from ..training.make_cache import cache_data

    # On a terminal every kind of entry gets a progress bar; in a log, where bars are noise, progress gets lines.
    planned_world_size()  # refuses a WORLD_SIZE that is no number
    launched, console = launched_rank(), make_console()
    rank, ranks = launched.rank, launched.world_size
    plain = ranks > 1 or not console.is_terminal
    with Progress(transient=True, console=console, disable=plain) as progress:
        tasks: dict[str, TaskID] = {}

        def done(kind: str, number: int, total: int) -> None:
            """Show how many entries of a kind are done: on the kind's bar, or as a line of a log."""
            if kind not in tasks:
                tasks[kind] = progress.add_task(kind)
            progress.update(tasks[kind], completed=number, total=total)
            if plain:
                print(f"rank {rank}: {number} of {total} {kind}", flush=True)

        report = cache_data(
            run, out, device=encoding_device(device), dtype=getattr(torch, dtype), batch=batch, done=done
        )
    rows = [
        ("entries of the configuration", report.wanted),
        ("there already, kept", report.kept),
        ("encoded now", report.encoded),
        ("could not be encoded", len(report.failed)),
    ]
    print_counts(console, rows, title=f"rank {rank} of {ranks}" if ranks > 1 else None)
    failed = [f"{entry['key']}, cut {entry['cut']}: {entry['reason']}" for entry in report.failed]
    print_first(console, failed, f"listed in {out / '*' / f'failed-rank{rank}.jsonl'}")
    console.print(f"data.cache={out}", soft_wrap=True)
