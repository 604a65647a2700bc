"""The command `lavie data index`: indices for shards that other tools have made."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from ..console import make_console
from ..errors import DataError
from .tables import print_counts, print_first

if TYPE_CHECKING:
    from ..data.prepare.indexing import IndexReport, ShardReport


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
    from ..data.prepare.indexing import make_indices, several_ranks

    console = make_console()
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    # mpirun gives each rank a terminal, where the progress bars of all ranks would overwrite each other.
    plain = several_ranks() or not console.is_terminal
    with Progress(transient=True, console=console, disable=plain) as progress:
        task = progress.add_task("indexing", total=None)

        def done(report: "ShardReport", number: int, total: int) -> None:
            """Show that one more shard is done: on the bar, or as a line of a log."""
            progress.update(task, completed=number, total=total)
            if plain:
                print(f"{number} of {total}: {_line(report)}", flush=True)

        report = make_indices(src, out=out, workers=workers, done=done)
    if report is not None:
        _show(console, report)


def _line(report: "ShardReport") -> str:
    """Return what became of one shard, as a line of a log."""
    what = "kept" if report.kept else "indexed"
    if report.fault is not None:
        what = "damaged"
    return f"{report.tar}: {what}, {report.videos} videos, {report.images} images, {len(report.rejected)} rejected"


def _show(console: Console, report: "IndexReport") -> None:
    """Print the report; raise a DataError if a shard has no index or an index has no shard."""
    kept = sum(shard.kept for shard in report.shards)
    rows = [
        ("shards indexed", len(report.shards) - kept - len(report.damaged)),
        ("shards whose index fits, kept", kept),
        ("shards damaged", len(report.damaged)),
        ("indices without their shard", len(report.orphans)),
        ("videos", sum(shard.videos for shard in report.shards)),
        ("images", sum(shard.images for shard in report.shards)),
    ]
    if system_files := sum(shard.system_files for shard in report.shards):
        rows.append(("files of the system, passed over", system_files))
    rows += [(f"rejected: {reason}", count) for reason, count in sorted(report.reasons.items())]
    print_counts(console, rows)
    rejected = [f"{item.name}: {item.reason}. {item.detail}" for item in report.rejected]
    print_first(console, rejected, "listed in index.rejected.jsonl beside the indices")
    if faults := report.faults:
        raise DataError("\n".join(faults))
