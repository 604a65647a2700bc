"""The writing of planned shards by an engine: each appears whole, and one that is there is not written again."""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...config.curate_shards import ShardsConfig
from ...data.media.decode import MediaInfo
from ...data.prepare.pack_record import shard_path
from ...data.prepare.writer import ShardWriter
from ...data.shards.index_file import index_path, read_header
from ...errors import ConfigError, DataError, LavieError
from ..engine.base import Engine
from ..films import read_films
from ..partial import partial_folder, sweep
from ..unit import units_of
from .plan import Shard, make_plan, plan_hash, read_plan, read_shard, write_plan

OWN = ("table", "frames", "clips", "rejected", "partial", "cache", "select", "report")
"""Folders in OUT that are the curation's own."""
Progress = Callable[[int, int | None], None]
"""A listener, called with the number of shards done and of all that are missing."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: paths and numbers, no pixels."""

    out: str
    dest: str
    plan: str
    """The hash of the plan that it is a part of."""
    grade: str
    number: int
    group: int


@dataclass
class ShardsReport:
    """What came of writing shards."""

    shards: list[Shard]
    """All of the plan."""
    without_caption: int
    """Clips that the selection keeps and nobody has captioned: they are in no shard."""
    written: int = 0
    """Shards that were written now."""
    failed: dict[str, str] = field(default_factory=dict)
    """Shards that could not be written, each with the reason."""


def write_shards(
    out: Path,
    selection: Path,
    dest: Path,
    config: ShardsConfig,
    engine: Engine,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> ShardsReport:
    """Write the clips that a selection keeps as shards with indices, each clip with its caption and notes.

    Args:
        out: the folder of the curation.
        selection: its selection.parquet or quality.parquet.
        dest: the folder of the shards.
        config: the size of the shards, and their grades.
        engine: where they are written.
        overwrite: whether shards of another plan are deleted first.
        progress: called after each shard.

    Raises:
        ConfigError: `dest` holds other shards, or there is nothing to write.
        DataError: the selection is out of date.
    """
    out, dest = out.resolve(), dest.resolve()
    before = check_dest(out, read_films(out).src, dest)
    plan = make_plan(out, selection, config)
    if plan.content != before:
        if before is not None and not overwrite:
            raise ConfigError(
                f"DEST {dest} holds the shards of another selection: give another folder, or --overwrite to delete them"
            )
        # The shards go first: those that a killed call left behind would be taken for shards of the new plan.
        if before is not None:
            _clear(dest)
        write_plan(dest, plan)
    shards = read_plan(dest)
    sweep(dest)
    report = ShardsReport(shards, plan.without_caption)
    tasks = [
        ShardTask(str(out), str(dest), plan.content, shard.grade, shard.number, shard.group)
        for shard in shards
        if not _whole(shard_path(dest / shard.grade, shard.number))
    ]
    for done, (task, error, death) in enumerate(engine.map(write_shard, tasks), start=1):
        if error or death:
            report.failed[f"{task.grade}/{task.number:05d}".lstrip("/")] = error or death
        else:
            report.written += 1
        progress(done, len(tasks))
    sweep(dest)
    return report


def check_dest(out: Path, src: Path, dest: Path) -> str | None:
    """Return the hash of the plan in the folder of the shards, None if there is none.

    Args:
        out: the folder of the curation.
        src: the folder of its films.
        dest: the folder of the shards, which need not be there.

    Raises:
        ConfigError: it holds something else, or is a folder of the curation's or the films' own.
        DataError: its plan is damaged.
    """
    out, src, dest = out.resolve(), src.resolve(), dest.resolve()
    advice = "give a folder of its own to the shards, as data/curated"
    if dest in (out, src):
        raise ConfigError(f"DEST is {'OUT' if dest == out else 'SRC'} {dest}: {advice}")
    if dest.is_relative_to(out) and (part := dest.relative_to(out).parts[0]) in OWN:
        raise ConfigError(f"DEST {dest} lies in OUT/{part}, which the curation writes itself: {advice}")
    if dest.exists() and not dest.is_dir():
        raise ConfigError(f"DEST {dest} is no folder: {advice}")
    before = plan_hash(dest)
    if before is None and (foreign := sorted(dest.glob("*.tar"))):
        raise ConfigError(
            f"DEST {dest} holds {foreign[0].name}, which no plan of a curation tells of: give another folder"
        )
    return before


def write_shard(task: ShardTask) -> str:
    """Write one shard, unless it is there by now; return what went wrong, "" if nothing did."""
    try:
        _write(task)
    except (LavieError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _write(task: ShardTask) -> None:
    """Write one shard."""
    out, dest = Path(task.out), Path(task.dest)
    final = shard_path(dest / task.grade, task.number)
    if _whole(final):
        return
    if plan_hash(dest) != task.plan:
        raise DataError(f"{dest}: its plan was replaced while shards were written: the same command goes on")
    units = {unit.name: unit for unit in units_of(out, read_films(out))}
    with partial_folder(dest, f"{task.grade or 'shard'}-{task.number:05d}") as folder:
        with ShardWriter(folder, 1 << 62, first=task.number) as writer:
            for row in read_shard(dest, task.group):
                info = MediaInfo(
                    "video",
                    row["format"],
                    row["frames"],
                    row["fps"],
                    row["vfr"],
                    row["width"],
                    row["height"],
                    row["duration"],
                    row["codec"],
                    tuple(row["remarks"]),
                )
                writer.add(
                    row["clip"], units[row["unit"]].clip_bytes(row), info, row["caption"], json.loads(row["notes"])
                )
        [written] = writer.shards
        final.parent.mkdir(parents=True, exist_ok=True)
        # The index says that the shard is whole, so it comes last.
        os.replace(written, final)
        os.replace(index_path(written), index_path(final))


def _whole(tar: Path) -> bool:
    """Return whether a shard and its index are there, the shard as long as the index says."""
    index = index_path(tar)
    try:
        return index.is_file() and tar.is_file() and tar.stat().st_size == read_header(index).tar_bytes
    except DataError:  # the index is damaged: the shard is written again
        return False


def _clear(dest: Path) -> None:
    """Delete the shards of an earlier plan, the indices first, and folders of grades that become empty."""
    for index in sorted(dest.glob("*.index.jsonl")) + sorted(dest.glob("grade-*/*.index.jsonl")):
        index.unlink()
    for tar in sorted(dest.glob("[0-9]*.tar")) + sorted(dest.glob("grade-*/[0-9]*.tar")):
        tar.unlink()
    for folder in dest.glob("grade-*"):
        with contextlib.suppress(OSError):
            folder.rmdir()
