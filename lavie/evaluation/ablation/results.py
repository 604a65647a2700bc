"""The results of an ablation: one JSON object a line for each arm and seed."""

import fcntl
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ...errors import DataError

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Result:
    """What came of one arm with one seed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    ablation: str
    arm: str
    seed: int
    config_hash: str
    """The hash of all that decides the result but the seed."""
    steps: int
    """Training steps of this arm."""
    values: dict[str, float | None]
    """Measures by name; None where none of the samples can be measured."""
    scores: dict[str, list[float | None]]
    """The measures of single samples by name, in the order in which they were drawn: that of the other arms too."""
    weights_sha256: str
    """The SHA-256 of the file of the averaged weights: on one machine a second run gives the same."""
    seconds: dict[str, float]
    """What training and drawing took, and the seconds of processors of the training, which other work does not
    move much; after a cut, those of the last part."""
    hardware: str
    load: float
    """The machine's load average at the end of training: with more than its cores, times do not count."""
    versions: dict[str, str]
    date: str
    command: str
    settings_hash: str = ""
    """The hash of what all arms of the call have in common; "" in results of before there was one."""


SECONDS, VERSIONS = ("training", "drawing"), ("lavie", "torch")
"""What the page tells of the seconds and the versions of every result."""
_READER = TypeAdapter(Result)


def append(path: Path, result: Result) -> None:
    """Add a line to a file of results, unless another call has added one of the same arm and seed.

    Calls write one after another. The beginning of a line that an earlier call has left goes.
    """
    with path.open("ab+") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if any((r.ablation, r.arm, r.seed) == (result.ablation, result.arm, result.seed) for r in read(path)):
            return
        file.seek(0)
        whole, end, last = file.read().rpartition(b"\n")
        missing = b""
        if last:
            try:
                _result(last)
                missing = b"\n"
            except ValueError:
                file.truncate(len(whole) + len(end))
        file.write(missing + line(result).encode())


def line(result: Result) -> str:
    """Return a result as a line of a file."""
    fields = {name: value for name, value in asdict(result).items() if name != "settings_hash" or value}
    return json.dumps(_rounded(fields), separators=(",", ":"), allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    """Return plain values with numbers of seven digits, which is more than a float32 has."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def read(path: Path) -> list[Result]:
    """Return the results in a file; none if there is no such file. An incomplete last line is left out.

    Raises:
        DataError: the file cannot be read, or a line is no result.
    """
    if not path.exists():
        return []
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    found = []
    for number, text in enumerate(lines, start=1):
        try:
            found.append(_result(text))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: no result of `lavie ablate`: {error}") from None
    if last:
        # A call that was cut has left the beginning of a line; an editor leaves a whole one without its end.
        with suppress(ValueError):
            found.append(_result(last))
    return found


def _result(text: bytes) -> Result:
    """Return the result in a line. Raises ValueError where it is none, with the place of the fault."""
    try:
        result = _READER.validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc'])) or 'the line'}: {fault['msg']}") from None
    for name, found, wanted in (("seconds", result.seconds, SECONDS), ("versions", result.versions, VERSIONS)):
        if missing := [key for key in wanted if key not in found]:
            raise ValueError(f"{name} has no {missing[0]}")
    return result


def gather(places: Iterable[Path]) -> dict[str, list[Result]]:
    """Return the results below several places, by ablation.

    Args:
        places: files of results, or folders with .jsonl files of them.

    Raises:
        DataError: a place holds none; an arm has two results of a seed, or results of two configurations.
    """
    found: dict[str, list[Result]] = {}
    for place in places:
        files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
        results = [result for file in files for result in read(file)]
        if not results:
            raise DataError(f"{place}: no results of `lavie ablate`: wanted a folder with {RESULTS}")
        for result in results:
            found.setdefault(result.ablation, []).append(result)
    for results in found.values():
        require_one_kind(results)
    return found


def require_one_kind(results: list[Result]) -> None:
    """Raise DataError if results of an ablation hold an arm and seed twice, or arms of other settings."""
    hashes: dict[str, str] = {}
    pairs = set()
    first = next((result for result in results if result.settings_hash), None)
    for result in results:
        where = f"{result.ablation}: arm {result.arm}"
        if first and result.settings_hash and result.settings_hash != first.settings_hash:
            raise DataError(
                f"{where}, seed {result.seed}, is of other settings ({result.settings_hash}) than arm {first.arm}, "
                f"seed {first.seed} ({first.settings_hash}): steps, draws, --set or --config differ: give one of them"
            )
        if hashes.setdefault(result.arm, result.config_hash) != result.config_hash:
            raise DataError(
                f"{where} has results of two configurations, {hashes[result.arm]} and {result.config_hash}: give one "
                "of them (other steps, --set, --config or code are another configuration)"
            )
        if (result.arm, result.seed) in pairs:
            raise DataError(f"{where} has two results of seed {result.seed}: give one of them")
        pairs.add((result.arm, result.seed))
