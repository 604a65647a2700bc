"""Which clip goes to which shard: DEST/plan.parquet, one row group for each shard.

1. The kept rows of a selection are sorted by grade, then by clip. A clip's name is a hash, so every shard is a sample
   of all films, and which clips share one does not depend on the order of films.
2. Shards are filled up to `shard_bytes` by the sizes of the clips, which are known; a grade begins a new one.
3. A row holds all that its sample is written from: where the clip lies, what it holds, its caption and its notes. So
   whoever writes a shard reads one row group and the clips.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config.curate_shards import ShardsConfig
from ...errors import ConfigError, DataError
from ...files import replacing
from ..films import read_films
from ..table import META, arrow, columns_path, content_hash, make_table, naming, read_table
from ..unit import Unit, units_of

if TYPE_CHECKING:
    import pyarrow as pa

PLAN = "plan.parquet"
"""The name of the plan in the folder of the shards."""
OVERHEAD = 4096
"""Bytes that a sample takes beside its clip: three headers of the tar, the caption and the notes."""
COLUMNS = {
    "grade": "string",
    "shard": "int32",
    "unit": "string",
    "clip": "string",
    "offset": "int64",
    "bytes": "int64",
    "sha256": "string",
    "format": "string",
    "codec": "string",
    "frames": "int32",
    "fps": "double",
    "vfr": "bool",
    "width": "int32",
    "height": "int32",
    "duration": "double",
    "remarks": "list<string>",
    "caption": "string",
    "notes": "string",
}
"""`grade` is the folder, empty without grades; `shard` counts from 0 in each; `notes` is the sample's JSON member."""
OF_CUT = (
    "offset",
    "bytes",
    "sha256",
    "format",
    "codec",
    "frames",
    "fps",
    "vfr",
    "width",
    "height",
    "duration",
    "remarks",
)
TOLD = ("film", "category", "stream", "start", "end", "t0", "t1", "method")
"""Columns of `cut` that go into a sample's notes."""
AESTHETIC = "aesthetic_score"
"""The name that `lavie data check` and other tools look for; it holds `aesthetic_mean`."""


@dataclass(frozen=True)
class Shard:
    """One shard of a plan."""

    grade: str
    """Its folder below DEST; empty for DEST itself."""
    number: int
    group: int
    """The number of its row group in the plan."""
    clips: int
    seconds: float
    """How long its clips are together."""


@dataclass(frozen=True)
class Plan:
    """The rows of a plan, not yet written."""

    table: "pa.Table"
    """The rows, with the columns COLUMNS."""
    content: str
    """Their hash."""
    without_caption: int
    """Clips that the selection keeps and nobody has captioned: they are not in the plan."""


def make_plan(out: Path, selection: Path, config: ShardsConfig) -> Plan:
    """Return the plan of the shards of a selection.

    Args:
        out: the folder of the curation.
        selection: its selection.parquet or quality.parquet.
        config: the size of the shards, and their grades.

    Raises:
        ConfigError: there is no selection, it keeps nothing, or the column of the grades does not exist.
        DataError: the selection is of other clips than those that are cut now.
    """
    if not selection.is_file():
        command = {"selection": "select"}.get(selection.stem, selection.stem)
        raise ConfigError(f"{selection}: missing: `lavie curate {command} {out}` makes it")
    kept = list(_kept(out, selection))
    rows = [row for unit, captions in kept for row in _rows(unit, captions, config)]
    if not rows:
        raise ConfigError(f"{selection}: keeps no clip with a caption: loosen the rules, or run `lavie curate caption`")
    rows.sort(key=lambda row: (row["grade"], row["clip"]))
    _number(rows, config.shard_bytes)
    table = make_table({name: [row[name] for row in rows] for name in COLUMNS}, COLUMNS)
    return Plan(table, content_hash(table), sum(len(captions) for _, captions in kept) - len(rows))


def plan_hash(dest: Path) -> str | None:
    """Return the hash of the plan in a folder, None if there is none. Raises DataError for a file that is no plan."""
    try:
        with naming(dest / PLAN, "no plan of shards", "delete it"):
            return json.loads(arrow().parquet.read_schema(dest / PLAN).metadata[META])["content"]
    except FileNotFoundError:
        return None


def read_plan(dest: Path) -> list[Shard]:
    """Return the shards of a plan, in its order."""
    with arrow().parquet.ParquetFile(dest / PLAN) as file:
        shards = []
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, ["grade", "shard", "duration"]).to_pydict()
            shards.append(
                Shard(rows["grade"][0], rows["shard"][0], group, len(rows["grade"]), float(sum(rows["duration"])))
            )
        return shards


def read_shard(dest: Path, group: int) -> list[dict[str, Any]]:
    """Return the rows of one shard of a plan, in its order."""
    with arrow().parquet.ParquetFile(dest / PLAN, memory_map=False) as file:
        return file.read_row_group(group).to_pylist()


def _kept(out: Path, selection: Path) -> Iterator[tuple[Unit, dict[str, str | None]]]:
    """Yield the units of a curation that have kept clips, each with the captions of these by the clips' names."""
    units = {unit.name: unit for unit in units_of(out, read_films(out))}
    table = read_table(selection)
    if "caption" not in table.column_names:
        raise ConfigError(
            f"{selection}: its clips have no captions: `lavie curate caption {out}` makes them, then select"
        )
    if "keep" in table.column_names:
        table = table.filter(table["keep"])
    captions: dict[str, dict[str, str | None]] = {}
    for row in table.select(["unit", "clip", "caption"]).to_pylist():
        captions.setdefault(row["unit"], {})[row["clip"]] = row["caption"]
    for name, of_unit in sorted(captions.items()):
        if name not in units:
            raise DataError(f"{selection}: names unit {name}, which {out} does not have: `lavie curate select {out}`")
        yield units[name], of_unit


def _rows(unit: Unit, captions: Mapping[str, str | None], config: ShardsConfig) -> Iterator[dict[str, Any]]:
    """Yield the rows of the plan, without the numbers of shards, for the kept clips of a unit that have a caption."""
    table = unit.read("cut")
    cut = table.to_pylist()
    if unknown := captions.keys() - {row["clip"] for row in cut}:
        raise DataError(
            f"the selection keeps clip {min(unknown)} of unit {unit.name}, which is not cut any more: run "
            f"`lavie curate select {unit.out}`"
        )
    scores = _scores(unit, table["clip"])
    told_by = _of_cut(unit, "caption", table["clip"])
    raw = [{}] * len(cut) if told_by is None else told_by.select(["caption_raw", "captioner"]).to_pylist()
    for row, told, score in zip(cut, raw, scores, strict=True):
        caption = captions.get(row["clip"])
        if not caption:
            continue
        notes = {name: row[name] for name in ("clip", *TOLD)} | told | {"scores": score}
        if (aesthetic := score.get("aesthetic_mean")) is not None:
            notes[AESTHETIC] = aesthetic
        yield {name: row[name] for name in OF_CUT} | {
            "grade": _grade(row | score, config),
            "unit": unit.name,
            "clip": row["clip"],
            "caption": caption,
            "notes": json.dumps(notes, ensure_ascii=False, sort_keys=True),
        }


def _of_cut(unit: Unit, stage: str, clips: "pa.ChunkedArray") -> "pa.Table | None":
    """Return a unit's columns of a stage behind cut; None where it has none, or those of other clips than these."""
    if not columns_path(unit.out, stage, unit.name).is_file():
        return None
    table = unit.read(stage)
    return table if table["clip"].equals(clips) else None


def _scores(unit: Unit, clips: "pa.ChunkedArray") -> list[dict[str, float]]:
    """Return the numbers that all stages behind cut have found of each clip, by the columns' names."""
    pa = arrow()
    rows: list[dict[str, float]] = [{} for _ in range(len(clips))]
    for folder in sorted((unit.out / "table").iterdir()):
        if folder.name in ("scan", "cut", "caption") or (table := _of_cut(unit, folder.name, clips)) is None:
            continue
        for name in table.column_names:
            if not (pa.types.is_floating(table[name].type) or pa.types.is_integer(table[name].type)):
                continue
            for row, value in zip(rows, table[name].to_pylist(), strict=True):
                if value is not None:
                    row[name] = value
    return rows


def _grade(values: Mapping[str, Any], config: ShardsConfig) -> str:
    """Return the folder of a clip by its grade; empty without grades."""
    if not config.grade_by:
        return ""
    value = values.get(config.grade_by)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        numbers = sorted(name for name, found in values.items() if isinstance(found, (int, float)))
        raise ConfigError(
            f"grade_by {config.grade_by}: clip {values['clip']} has no such number; it has {', '.join(numbers)}"
        )
    return f"grade-{int(np.searchsorted(config.grade_edges, value, side='right'))}"


def _number(rows: Sequence[dict[str, Any]], limit: int) -> None:
    """Give each row the number of its shard within its grade; the rows are sorted by grade."""
    grade, number, filled = None, 0, 0
    for row in rows:
        size = row["bytes"] + OVERHEAD
        if row["grade"] != grade:
            grade, number, filled = row["grade"], 0, 0
        elif filled + size > limit:
            number, filled = number + 1, 0
        row["shard"] = number
        filled += size


def write_plan(dest: Path, plan: Plan) -> None:
    """Write a plan into the folder of its shards, which is made if need be: a row group for each shard."""
    grades, numbers = (plan.table[name].to_numpy(zero_copy_only=False) for name in ("grade", "shard"))
    new = np.flatnonzero((grades[1:] != grades[:-1]) | (numbers[1:] != numbers[:-1])) + 1
    table = plan.table.replace_schema_metadata({META: json.dumps({"content": plan.content}).encode()})
    dest.mkdir(parents=True, exist_ok=True)
    with (
        replacing(dest / PLAN) as partial,
        arrow().parquet.ParquetWriter(partial, table.schema, compression="zstd") as writer,
    ):
        for start, end in zip([0, *new], [*new, len(grades)], strict=True):
            writer.write_table(table.slice(start, end - start), end - start)
