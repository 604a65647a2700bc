"""The commands `lavie data ...`: pack and demo here, index, plan, check, cache and view in modules of their own."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..caption_limit import CaptionLimit, clip_words
from ..console import make_console, progress_bar
from ..errors import DataError
from ..files import require_free
from .data_cache import cache_command
from .data_check import check_command
from .data_index import index_command
from .data_plan import plan_command
from .data_view import view_command
from .runs import Overwrite, Tokenizer, limit_of
from .tables import print_counts, print_first

if TYPE_CHECKING:
    from ..data.prepare.pack import PackReport

app = typer.Typer(name="data", help="Make and check datasets.", no_args_is_help=True)


@app.command("pack")
def pack_command(
    src: Annotated[Path, typer.Argument(help="Media with .txt captions, a .csv or .jsonl table, or shards.")],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.")],
    num_frames: Annotated[int, typer.Option(min=1, help="Frames of a clip; videos that hold none are left out.")] = 16,
    fps: Annotated[float | None, typer.Option(min=0.01, help="Frames per second of a clip, as data.fps.")] = None,
    frame_stride: Annotated[int | None, typer.Option(min=1, help="Or every n-th frame, as data.frame_stride.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that decode. By default one for each core.")
    ] = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Pack captioned videos and images into shards. Without --fps and --frame-stride, the frame stride is 1.

    Run again after a stop or with more files: what OUT holds stays, and what is new becomes further shards.
    """
    if fps and frame_stride:
        raise DataError(f"--fps {fps:g} and --frame-stride {frame_stride}: give one of them")
    if not fps:
        frame_stride = frame_stride or 1
    from ..data.prepare.pack import pack

    limit = limit_of(tokenizer)

    with progress_bar(make_console(), "packing") as progress:
        report = pack(
            src,
            out,
            num_frames=num_frames,
            fps=fps,
            frame_stride=frame_stride,
            limit=limit,
            workers=workers or len(os.sched_getaffinity(0)),
            progress=progress,
        )
    _show(out, report, limit)


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Argument(help="Folder; the shards go to its train and validation.")],
    clips: Annotated[int, typer.Option(min=1, help="Training clips.")] = 800,
    images: Annotated[int, typer.Option(min=0, help="Training images.")] = 240,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels, even.")] = 64,
    frames: Annotated[int, typer.Option(min=2, help="Frames of a clip.")] = 12,
    fps: Annotated[float, typer.Option(min=1, help="Frames per second.")] = 12,
    travel: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Least and most that shapes move in a clip, in units of the frame. Default: far."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other clips.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw a small captioned dataset of coloured shapes that move."""
    from ..data.prepare.synthetic import FARTHEST, TRAVEL, demo_set

    travel = travel or TRAVEL
    folders = out / "train", out / "validation"
    require_free(*folders, overwrite=overwrite)
    # Options that typer's own ranges cannot check.
    if size % 2:
        raise DataError(f"--size {size}: wanted an even number, for H.264")
    if not 0 <= travel[0] <= travel[1] <= FARTHEST:
        raise DataError(f"--travel {travel[0]:g} {travel[1]:g}: wanted least and most, within 0 .. {FARTHEST}")

    # Nothing is deleted for options that cannot be drawn.
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
    train, validation = demo_set(
        out, clips=clips, images=images, size=size, frames=frames, fps=fps, seed=seed, travel=travel
    )
    _show(out / "train", train, clip_words())
    _show(out / "validation", validation, clip_words())


def _show(out: Path, report: "PackReport", limit: CaptionLimit) -> None:
    """Print what became of the files packed into `out`; long captions were counted by `limit`."""
    rows = [("videos packed", report.videos), ("images packed", report.images)]
    if report.kept:
        rows.append(("packed before and unchanged, kept", report.kept))
    if report.converted:
        rows.append(("of these, GIFs stored as mp4 or png", len(report.converted)))
    rows += [(f"rejected: {reason}", count) for reason, count in sorted(report.reasons.items())]
    if report.long_captions:
        rows.append((f"captions of {limit.rule}", report.long_captions))
    rows += [(reason, count) for reason, count in sorted(Counter(item.reason for item in report.changed).items())]
    rows += [(f"passed over: {what}", count) for what, count in sorted(report.passed.items())]
    rows.append(("shards written", len(report.shards)))
    console = make_console()
    print_counts(console, rows, title=str(out))
    rejected = [f"{item.name}: {item.reason}. {item.detail}" for item in report.rejected]
    print_first(console, rejected, f"listed in {out / 'rejected.jsonl'}")
    changed = [f"{item.name}: {item.reason}. {item.detail}" for item in report.changed]
    print_first(console, changed, f"listed in {out / 'changed.jsonl'}")


TAKES_KEYS = {"ignore_unknown_options": True}
"""Settings of a command that takes --key value as well as key=value."""
app.command("index")(index_command)
app.command("plan", context_settings=TAKES_KEYS)(plan_command)
app.command("check")(check_command)
app.command("cache", context_settings=TAKES_KEYS)(cache_command)
app.command("view", context_settings=TAKES_KEYS)(view_command)
