"""`lavie data check`: the doctor's report as a table, a JSON and pictures."""

import json
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..data.check.check import PROBLEMS, UNUSABLE, CheckReport, check
from ..data.check.compare_decoders import Comparison
from ..errors import DataError

SHOWN = 20
"""Findings that are listed on screen; `check.json` lists them all."""
ON_SHEET = 16


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
    tars = [tar for path in shards for tar in _tars(path)]
    out.mkdir(parents=True, exist_ok=True)
    comparison = Comparison() if decode else None
    with Progress(transient=True) as progress:
        task = progress.add_task("reading")
        report = check(
            tars,
            decode=decode,
            num_frames=num_frames,
            fps=fps,
            frame_stride=frame_stride,
            compare=comparison,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if comparison:
        comparison.close()
    _write(report, out)
    _show(report, out)
    if not report.usable:
        raise typer.Exit(1)


def _tars(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"SHARDS {path}: no such file or folder")
    if not (tars := sorted(path.glob("*.tar"))):
        raise DataError(f"SHARDS {path}: no .tar in this folder")
    return tars


def _write(report: CheckReport, out: Path) -> None:
    from ..data.check.figures import draw_statistics
    from ..inference.contact_sheet import contact_sheet

    (out / "check.json").write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_statistics(report, out / "statistics.png")
    (out / "sheet.png").unlink(missing_ok=True)
    rows: dict[str, list[tuple[str, np.ndarray]]] = {"video": [], "image": []}
    for sample, frames in report.decoded[:ON_SHEET]:
        rows[sample.kind].append((f"{sample.key}: {sample.caption}", frames))
    if sheets := [contact_sheet(kind) for kind in rows.values() if kind]:
        width = max(sheet.shape[1] for sheet in sheets)
        padding = [((0, 0), (0, width - sheet.shape[1]), (0, 0)) for sheet in sheets]
        whole = [np.pad(sheet, pad, constant_values=255) for sheet, pad in zip(sheets, padding, strict=True)]
        Image.fromarray(np.concatenate(whole)).save(out / "sheet.png")


def _show(report: CheckReport, out: Path) -> None:
    console = Console()
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
    table.add_row("repeated captions", str(report.duplicate_captions), "")
    counts = report.counts
    for problem in PROBLEMS:
        if counts[problem]:
            bad = problem in UNUSABLE
            meaning = "cannot train" if bad else "worth a look"
            table.add_row(problem, str(counts[problem]), meaning, style="red" if bad else "yellow")
    console.print(table)
    worst = sorted(report.findings, key=lambda f: f.reason not in UNUSABLE)
    for finding in worst[:SHOWN]:
        line = f"{finding.name}: {finding.reason}. {finding.detail}"
        # Names come from the tar and may hold what moves a terminal's cursor.
        console.print(re.sub(r"[^\x20-\x7e\xa1-\U0010ffff]", " ", line)[:400], markup=False, highlight=False)
    if len(worst) > SHOWN:
        console.print(f"... and {len(worst) - SHOWN} more, in {out / 'check.json'}", markup=False, highlight=False)
    names = ("check.json", "statistics.png", "sheet.png")
    console.print(*(str(out / n) for n in names if (out / n).exists()), sep="\n", markup=False, highlight=False)
