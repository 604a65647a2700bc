"""The scores of samples, as curation and other tools leave them in the .json beside a sample in its shard."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...json_text import parse_json
from ..prepare.tar import read_members

LARGEST = 1 << 20
"""Bytes of a .json that is read, at most."""


def read_scores(
    shards: Sequence[str], moved: Callable[[int, int], None] = lambda done, total: None
) -> dict[tuple[str, str], dict[str, float]]:
    """Return the numbers in the .json of each sample, by shard and key: those below "scores", and those beside it.

    Args:
        shards: paths of tars; URLs are passed over, as every header would be fetched.
        moved: called with how many shards are done, and of how many.

    Raises:
        DataError: a shard cannot be read.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    for done, shard in enumerate(shards, 1):
        if "://" not in shard:
            with open(shard, "rb") as file:
                for member in read_members(Path(shard)):
                    name = PurePosixPath(member.name)
                    if member.kind != "file" or name.suffix.lower() != ".json" or member.size > LARGEST:
                        continue
                    if numbers := _numbers(member.read(file)):
                        found[shard, member.name[: -len(name.suffix)]] = numbers
        moved(done, len(shards))
    return found


def _numbers(text: bytes) -> dict[str, float]:
    """Return the numbers of a sample's notes; none if it is no JSON object, as anything may lie beside a sample."""
    try:
        notes: Any = parse_json(text)
    except ValueError:
        return {}
    if not isinstance(notes, dict):
        return {}
    scores = notes.get("scores")
    own = {**notes, **(scores if isinstance(scores, dict) else {})}
    return {name: float(value) for name, value in own.items() if type(value) in (int, float)}
