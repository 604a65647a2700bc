"""The command `lavie curate shards`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import make_console, progress_bar
from ..errors import DataError
from .curate_common import Address, Changes, ConfigFile, EngineName, Out, Workers, engine_changes
from .runs import Overwrite
from .tables import SHOWN, print_counts

if TYPE_CHECKING:
    from ..config.curate_shards import ShardsConfig
    from ..curation.engine.base import Engine


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
    from ..config.curate import keep, load_curate
    from ..curation.engine.choice import open_engine
    from ..curation.films import read_films
    from ..curation.select.quality import QUALITY
    from ..curation.select.select import FOLDER, SELECTION

    read_films(out)  # what is no curation is named as such
    found = load_curate(out, config, changes or (), engine_changes(engine, workers, address))
    selection = out / FOLDER / (QUALITY if quality else SELECTION)
    with open_engine(found.engine) as opened:
        if opened is not None:
            keep(out, found)
            print_shards(out, selection, dest, found.shards, opened, overwrite)


def print_shards(
    out: Path, selection: Path, dest: Path, config: "ShardsConfig", engine: "Engine", overwrite: bool
) -> None:
    """Write shards as `write_shards` does, and print what came of it. Raises DataError if some failed."""
    from ..curation.shards.write import write_shards

    console = make_console()
    with progress_bar(console, "shards") as progress:
        report = write_shards(out, selection, dest, config, engine, overwrite=overwrite, progress=progress)
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
