"""The command `lavie data check`: what is wrong with some shards, as a table, a JSON file and pictures."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..console import make_console, progress_bar
from ..errors import DataError
from ..files import require_free
from .runs import Overwrite, ShardWords, Tokenizer, limit_of
from .tables import print_first

if TYPE_CHECKING:
    from ..caption_limit import CaptionLimit
    from ..config.data import DataConfig
    from ..data.check.report import CheckReport


def check_command(
    shards: ShardWords = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="A run's YAML, or the name of a shipped config: its data are checked, by its frames, rate and sizes."
        ),
    ] = None,
    decode: Annotated[int, typer.Option(min=0, help="So many samples are decoded and looked at.")] = 16,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("check"),
    num_frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of a clip, as data.num_frames; default 16.")
    ] = None,
    fps: Annotated[float | None, typer.Option(min=0.01, help="Frames per second of a clip, as data.fps.")] = None,
    frame_stride: Annotated[int | None, typer.Option(min=1, help="Or every n-th frame, as data.frame_stride.")] = None,
    tokenizer: Tokenizer = None,
    overwrite: Overwrite = False,
) -> None:
    """Examine shards: every byte is read, some clips are decoded. Exits with 1 if samples cannot train."""
    if fps and frame_stride:
        raise DataError(f"--fps {fps:g} and --frame-stride {frame_stride}: give one of them")
    if config and (num_frames or fps or frame_stride):
        raise DataError(
            "--config says what a clip is: leave out --num-frames, --fps and --frame-stride, or change it by "
            "data.num_frames=..., data.fps=... or data.frame_stride=..."
        )
    require_free(out, overwrite=overwrite)
    from ..data.check.check import check, find_shards
    from ..data.check.compare_decoders import Comparison
    from ..data.check.report_files import write_report
    from ..inference.contact_sheet import contact_sheet

    paths, run, limit = _what_to_check(shards or [], config)
    tars = find_shards(paths)
    out.mkdir(parents=True, exist_ok=True)
    comparison = Comparison() if decode else None
    with progress_bar(make_console(), "reading") as progress:
        report = check(
            tars,
            decode=decode,
            num_frames=num_frames or 16,
            fps=fps,
            frame_stride=frame_stride,
            run=run,
            limit=limit_of(tokenizer) if tokenizer else limit,
            compare=comparison,
            progress=progress,
        )
    if comparison:
        comparison.close()
    files = write_report(report, out, contact_sheet)
    _show(report, files)
    if not report.usable:
        raise typer.Exit(1)


def _what_to_check(given: list[str], config: str | None) -> "tuple[list[Path], DataConfig | None, CaptionLimit | None]":
    """Return the shards to check, the data of the run by which they are judged, and how much its text encoder reads.

    Args:
        given: shards, and changes of the configuration.
        config: the run's YAML or the name of a shipped one, if one is given; its own data are checked where no shards
            are named.
    """
    if config is None:
        if not given:
            raise DataError("SHARDS: wanted shards or folders of them, or a run's --config")
        return [Path(path) for path in given], None, None
    from ..config.load import load_config
    from ..config.shipped import find_config
    from ..data.shards.remote import is_url
    from ..models.text_encoder import caption_limit

    changes = [text for text in given if "=" in text and not Path(text).exists()]
    whole = load_config(find_config(config, "--config"), changes)
    run, limit = whole.data, caption_limit(whole.text_encoder, whole.pretrained_model_name_or_path)
    paths = [Path(text) for text in given if text not in changes]
    if paths:
        return paths, run, limit
    if urls := [path for path in run.paths if is_url(path)]:
        raise DataError(f"{urls[0]}: a URL. Check a copy of the shards on a disk")
    return [Path(path) for path in run.paths], run, limit


def _show(report: "CheckReport", files: list[Path]) -> None:
    """Print the counts, the first findings, and the paths of the report's files; the first file lists all findings."""
    from ..data.check.report import UNUSABLE

    console = make_console()
    console.print(_table(report))

    # What keeps samples from training comes first.
    worst = sorted(report.findings, key=lambda finding: finding.reason not in UNUSABLE)
    lines = [_harmless(f"{finding.name}: {finding.reason}. {finding.detail}") for finding in worst]
    print_first(console, lines, f"in {files[0]}")
    console.print(*map(str, files), sep="\n", soft_wrap=True)


def _table(report: "CheckReport") -> Table:
    """Return the counts of a report with what each of them means."""
    from ..data.check.report import PROBLEMS, UNUSABLE

    facts = report.as_json()
    table = Table(title=f"{len(report.shards)} shard{'s' if len(report.shards) != 1 else ''}", title_justify="left")
    for column in ("what", "count", "meaning"):
        table.add_column(column, justify="right" if column == "count" else "left")

    table.add_row("videos", str(facts["videos"]), duration_text(facts["seconds"]["total"]))
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
            meaning = report.limit.rule if problem == "long caption" else meaning
            table.add_row(problem, str(counts[problem]), meaning, style="red" if bad else "yellow")
    return table


def duration_text(seconds: float) -> str:
    """Return a time in the unit that suits it: seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _harmless(line: str) -> str:
    """Return a line fit for a terminal: names come from the tar and may hold what moves the cursor."""
    return re.sub(r"[^\x20-\x7e\xa1-\U0010ffff]", " ", line)[:400]
