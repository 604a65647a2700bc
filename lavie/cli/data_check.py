"""The command `lavie data check`: what is wrong with some shards, as a table, a JSON file and pictures."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..console import make_console, progress_bar
from ..data.check.check import check, find_shards
from ..data.check.compare_decoders import Comparison
from ..data.check.report import PROBLEMS, UNUSABLE, CheckReport
from ..data.check.report_files import write_report
from ..errors import DataError
from .tables import print_first


def check_command(
    shards: Annotated[list[Path], typer.Argument(help="Shards, or folders of them.")],
    decode: Annotated[int, typer.Option(min=0, help="So many samples are decoded and looked at.")] = 16,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("check"),
    num_frames: Annotated[int, typer.Option(min=1, help="Frames of a clip, as data.num_frames.")] = 16,
    fps: Annotated[float | None, typer.Option(min=0.01, help="Frames per second of a clip, as data.fps.")] = None,
    frame_stride: Annotated[int | None, typer.Option(min=1, help="Or every n-th frame, as data.frame_stride.")] = None,
) -> None:
    """Examine shards: every byte is read, some clips are decoded. Exits with 1 if samples cannot train."""
    if fps and frame_stride:
        raise DataError(f"--fps {fps:g} and --frame-stride {frame_stride}: give one of them")
    from ..inference.contact_sheet import contact_sheet

    tars = find_shards(shards)
    out.mkdir(parents=True, exist_ok=True)
    comparison = Comparison() if decode else None
    with progress_bar(make_console(), "reading") as progress:
        report = check(
            tars,
            decode=decode,
            num_frames=num_frames,
            fps=fps,
            frame_stride=frame_stride,
            compare=comparison,
            progress=progress,
        )
    if comparison:
        comparison.close()
    files = write_report(report, out, contact_sheet)
    _show(report, files)
    if not report.usable:
        raise typer.Exit(1)


def _show(report: CheckReport, files: list[Path]) -> None:
    """Print the counts, the first findings, and the paths of the report's files; the first file lists all findings."""
    console = make_console()
    console.print(_table(report))

    # What keeps samples from training comes first.
    worst = sorted(report.findings, key=lambda finding: finding.reason not in UNUSABLE)
    lines = [_harmless(f"{finding.name}: {finding.reason}. {finding.detail}") for finding in worst]
    print_first(console, lines, f"in {files[0]}")
    console.print(*map(str, files), sep="\n", soft_wrap=True)


def _table(report: CheckReport) -> Table:
    """Return the counts of a report with what each of them means."""
    facts = report.as_json()
    table = Table(title=f"{len(report.shards)} shard{'s' if len(report.shards) != 1 else ''}", title_justify="left")
    for column in ("what", "count", "meaning"):
        table.add_column(column, justify="right" if column == "count" else "left")

    table.add_row("videos", str(facts["videos"]), f"{facts['seconds']['total'] / 3600:.2f} hours")
    table.add_row("images", str(facts["images"]), "")
    table.add_row("looked at", str(facts["decoded"]), "")
    compared = report.compared["agree"] + report.compared["disagree"]
    table.add_row("compared with DALI", str(compared), "videos looked at, decoded by both")
    for reason, count in report.not_compared.most_common():
        table.add_row("not compared", str(count), reason)
    if report.lost:
        table.add_row("lost", str(report.lost), "samples of shards that cannot be read", style="red")
    if report.system_files:
        table.add_row("files of the system", str(report.system_files), "passed over")
    table.add_row("repeated captions", str(report.duplicate_captions), "")

    for remark, count in facts["interpreted"].items():
        table.add_row(remark, str(count), "videos; how each is shown stands in its index")

    # Red rows are problems that keep samples from training.
    counts = report.counts
    for problem in PROBLEMS:
        if counts[problem]:
            bad = problem in UNUSABLE
            meaning = "cannot train" if bad else "worth a look"
            table.add_row(problem, str(counts[problem]), meaning, style="red" if bad else "yellow")
    return table


def _harmless(line: str) -> str:
    """Return a line fit for a terminal: names come from the tar and may hold what moves the cursor."""
    return re.sub(r"[^\x20-\x7e\xa1-\U0010ffff]", " ", line)[:400]
