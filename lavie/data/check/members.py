"""The first half of a check: every member of a shard is read, hashed and compared with the shard's index."""

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..media.decode import MediaInfo
from ..prepare.scan import announced_format, index_shard
from ..prepare.tar import read_members
from ..shards.index_file import Rejected, Sample, fingerprint, index_path, read_header, read_index
from .report import PROBLEMS, CheckReport, member_name

MAX_SIDECAR = 1 << 20
"""Bytes of the largest json member that is read: 1 MiB; tools write a few kB."""
SCORE_KEYS = ("aesthetic_score", "aesthetic", "AESTHETIC_SCORE")
"""Keys under which json members give an aesthetic score; the first number among them counts."""


def read_shard(tar: Path, report: CheckReport) -> Iterator[Sample]:
    """Yield the usable samples of a shard, and note in `report` whatever is wrong with the others.

    A sample is usable if its bytes have the SHA-256 that the index promises. Samples that no index promises are decoded
    instead. A shard whose tar is damaged yields nothing, and the samples of its index count as lost.
    """
    promised = _promised_samples(tar, report)
    counts: dict[str, Any] = {"shard": str(tar), "bytes": tar.stat().st_size, "videos": 0, "images": 0}
    report.shards.append(counts)

    # Media that the index describes is hashed without being decoded again.
    try:
        scan = index_shard(tar, {key: _media_info(line) for key, line in promised.items()})
        _read_sidecars(tar, report)
    except DataError as error:
        report.lost += len(promised)
        report.note(str(tar), "truncated shard" if "cut short" in str(error) else "damaged shard", str(error))
        return

    # A key that was rejected by name is not missing as well.
    report.system_files += scan.system_files
    _note_rejected(tar, scan.rejected, report)
    rejected_keys = {item.name.rpartition(".")[0] for item in scan.rejected}
    for key in promised.keys() - {sample.key for sample in scan.samples} - rejected_keys:
        report.note(_name(tar, key), "missing", "the index has it, the tar has not")

    for sample in scan.samples:
        line = promised.get(sample.key)
        if line and line["sha256"] != sample.sha256:
            problem = "corrupted" if sample.size else "zero-byte"
            report.note(member_name(sample), problem, "the SHA-256 differs from the index")
        else:
            counts["videos" if sample.kind == "video" else "images"] += 1
            yield sample


def _promised_samples(tar: Path, report: CheckReport) -> dict[str, dict[str, Any]]:
    """Return the lines of the shard's index by key; note an index that is absent, damaged or made for other bytes."""
    path = index_path(tar)
    if not path.is_file():
        report.note(str(tar), "no index", "`lavie data index` makes it")
        return {}
    promised: dict[str, dict[str, Any]] = {}
    try:
        header = read_header(path)
        promised = {line["key"]: line for line in read_index(path, header)}
        if (header.tar_bytes, header.ends) != (tar.stat().st_size, fingerprint(tar)):
            detail = f"{tar.stat().st_size} bytes, its index was made for {header.tar_bytes}"
            report.note(str(tar), "index does not fit", detail)
    except DataError as error:
        report.note(str(tar), "index does not fit", str(error))
    return promised


def _media_info(line: dict[str, Any]) -> MediaInfo:
    """Return the facts that a line of an index states about its media member."""
    values = {f.name: line[f.name] for f in fields(MediaInfo) if f.name != "format"}
    return MediaInfo(format=announced_format(line["member"]), **values)


def _note_rejected(tar: Path, rejected: list[Rejected], report: CheckReport) -> None:
    """Note what `index_shard` rejected, under the names of PROBLEMS."""
    for item in rejected:
        problem = "zero-byte" if item.detail == "the file is empty" else item.reason
        report.note(_name(tar, item.name), problem if problem in PROBLEMS else "other", item.detail or item.reason)


def _name(tar: Path, name: str) -> str:
    """Return the name by which findings call a member or a key: `shard.tar:name`, or the shard if there is no name."""
    return f"{tar}:{name}" if name else str(tar)


def _read_sidecars(tar: Path, report: CheckReport) -> None:
    """Add the categories and aesthetic scores of a shard's json members, named as by video2dataset and img2dataset.

    Members that are too large, that are no JSON object, or that have values of other types are passed over: a check
    must survive whatever a stranger has put there.
    """
    with open(tar, "rb") as file:
        for member in read_members(tar):
            if member.kind != "file" or not member.name.endswith(".json") or member.size > MAX_SIDECAR:
                continue
            try:
                notes = json.loads(member.read(file))
            except (ValueError, RecursionError):
                continue
            if not isinstance(notes, dict):
                continue
            named = notes.get("categories") or notes.get("category")
            categories = named if isinstance(named, list) else [named]
            report.categories.update(category[:40] for category in categories if isinstance(category, str))
            if (score := _aesthetic_score(notes)) is not None:
                report.aesthetic.append(score)


def _aesthetic_score(notes: dict[str, Any]) -> float | None:
    """Return the first number under SCORE_KEYS, or None if there is none or it is not finite."""
    for key in SCORE_KEYS:
        value = notes.get(key)
        # JSON's true and false are no scores, though Python's bool is an int.
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                score = float(value)
            except OverflowError:
                return None
            return score if math.isfinite(score) else None
    return None
