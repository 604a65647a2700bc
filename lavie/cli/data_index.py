"""`lavie data index`: indices for shards that others have made."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..data.prepare.indexing import IndexReport, ShardReport, make_indices, several_ranks
from ..errors import DataError

SHOWN = 20
"""Rejected files that are listed on screen; `index.rejected.jsonl` lists them all."""


def index_command(
    src: Annotated[list[Path], typer.Argument(help="Folders of video2dataset-style .tar shards, or single ones.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the indices, where SRC cannot be written.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that decode. By default one for each core.")
    ] = None,
) -> None:
    """Index shards from elsewhere without rewriting them. Run again after a change: what fits is kept.

    Under `mpirun` the ranks share the shards. Name SRC in data.train afterwards, or the folder of --out.
    """
    console = Console()
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    plain = several_ranks() or not console.is_terminal  # mpirun gives each rank a terminal of its own
    with Progress(transient=True, console=console, disable=plain) as progress:
        task = progress.add_task("indexing", total=None)

        def done(report: ShardReport, number: int, total: int) -> None:
            progress.update(task, completed=number, total=total)
            if plain:
                print(f"{number} of {total}: {_line(report)}", flush=True)

        report = make_indices(src, out=out, workers=workers, done=done)
    if report is not None:
        _show(console, report)


def _line(report: ShardReport) -> str:
    what = "damaged" if report.fault is not None else "kept" if report.kept else "indexed"
    return f"{report.tar}: {what}, {report.videos} videos, {report.images} images, {len(report.rejected)} rejected"


def _show(console: Console, report: IndexReport) -> None:
    """Print it; a DataError if a shard or an index is left without the other."""
    table = Table()
    table.add_column("what")
    table.add_column("count", justify="right")
    kept = sum(s.kept for s in report.shards)
    table.add_row("shards indexed", str(len(report.shards) - kept - len(report.damaged)))
    table.add_row("shards whose index fits, kept", str(kept))
    table.add_row("shards damaged", str(len(report.damaged)))
    table.add_row("indices without their shard", str(len(report.orphans)))
    table.add_row("videos", str(sum(s.videos for s in report.shards)))
    table.add_row("images", str(sum(s.images for s in report.shards)))
    for reason, count in sorted(report.reasons.items()):
        table.add_row(f"rejected: {reason}", str(count))
    console.print(table)
    rejected = report.rejected
    for one in rejected[:SHOWN]:
        console.print(f"{one.name}: {one.reason}. {one.detail}", markup=False, highlight=False)
    if len(rejected) > SHOWN:
        more = f"... and {len(rejected) - SHOWN} more, listed in index.rejected.jsonl beside the indices"
        console.print(more, markup=False, highlight=False)
    faults = [s.fault for s in report.damaged if s.fault]
    faults += [f"{path}: its shard is gone: copy it again, or delete the index" for path in report.orphans]
    if faults:
        raise DataError("\n".join(faults))
