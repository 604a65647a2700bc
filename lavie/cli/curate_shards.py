"""The command `lavie curate shards`."""

from pathlib import Path
from typing import Annotated

import typer

from ..console import make_console, progress_bar
from ..errors import DataError
from .curate_common import Address, Changes, ConfigFile, EngineName, Out, Workers, engine_changes, settings
from .runs import Overwrite
from .tables import SHOWN, print_counts


def shards_command(
    out: Out,
    dest: Annotated[Path, typer.Argument(help="Folder of the shards, as data/curated.")],
    changes: Changes = None,
    quality: Annotated[bool, typer.Option(help="Write the quality set in place of all selected clips.")] = False,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    engine: EngineName = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Write the selected clips with captions and scores as shards, ready for data.train. Run again to go on."""
    from ..curation.engine.choice import open_engine
    from ..curation.shards.write import write_shards

    found = settings(out, config, changes, engine_changes(engine, workers, address))
    selection = out / "select" / ("quality.parquet" if quality else "selection.parquet")
    console = make_console()
    with open_engine(found.engine) as opened:
        if opened is None:
            return
        with progress_bar(console, "shards") as progress:
            report = write_shards(out, selection, dest, found.shards, opened, overwrite=overwrite, progress=progress)
    rows = [("clips", sum(shard.clips for shard in report.shards)), ("shards", len(report.shards))]
    rows += [("written now", report.written)]
    rows += [("selected, but without a caption: left out", report.without_caption)] if report.without_caption else []
    print_counts(console, rows, title=str(dest))
    grades = sorted({shard.grade for shard in report.shards})
    for grade in grades if grades != [""] else []:
        shards = [shard for shard in report.shards if shard.grade == grade]
        hours = sum(shard.seconds for shard in shards) / 3600
        console.print(
            f"{dest / grade}: {sum(shard.clips for shard in shards)} clips, {hours:.2f} hours", soft_wrap=True
        )
    for shard, error in sorted(report.failed.items())[:SHOWN]:
        console.print(f"  {shard}: {error}", soft_wrap=True)
    if report.failed:
        raise DataError(f"{len(report.failed)} shards failed, each with its reason above: the same command tries again")
