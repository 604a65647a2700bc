"""Results of evaluations as JSON that say how they were made, and the comparison of two of them."""

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .. import __version__
from ..errors import DataError
from ..files import replacing
from ..json_text import read_json

PACKAGES = ("torch", "numpy", "av", "pillow", "safetensors", "transformers")
"""What may move a number in its last digits."""
SIGMAS = 1.959964
"""Standard errors on either side that a 95 % interval reaches."""


def short_hash(content: Any) -> str:
    """Return the first 16 digits of the SHA-256 of a plain value, by which protocols and rows are told apart."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def hash_of_clips(digests: Iterable[str]) -> str:
    """Return the first 16 digits of a SHA-256 of what clips are told by, whatever their names and their order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()[:16]


def interval(value: float, error: float) -> list[float]:
    """Return the 95 % interval of a value with a standard error."""
    return [value - SIGMAS * error, value + SIGMAS * error]


def by_clip(scores: Mapping[str, float]) -> dict[str, Any]:
    """Return what a result says of scores by clip: their mean and number, and the 95 % interval over clips."""
    values = np.array(list(scores.values()))
    mean = float(values.mean())
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    around = None if error is None else interval(mean, error)
    return {"value": mean, "n": len(values), "standard_error": error, "interval": around, "scores": dict(scores)}


def versions() -> dict[str, str]:
    """Return the versions of this project, of Python and of PACKAGES."""
    found = {"lavie": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, with the versions that made it.

    Raises:
        DataError: a number in it is not finite.
    """
    if found := _not_finite(result):
        raise DataError(f"{path}: not written: {found} is not finite")
    write_json(path, {**result, "versions": versions()})


def write_json(path: Path, content: Any) -> None:
    """Write a plain value as JSON, whole or not at all; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    with replacing(path) as temporary:
        # A folder's name that is no UTF-8 becomes the escapes that JSON has for it.
        temporary.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))


def _not_finite(value: Any, name: str = "") -> str:
    """Return the place of a number in a plain value that is not finite, as scores.clip.mp4; "" if there is none."""
    if isinstance(value, Mapping):
        parts = [(f"{name}.{key}" if name else str(key), part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{name}[{place}]", part) for place, part in enumerate(value)]
    else:
        return name if isinstance(value, float) and not math.isfinite(value) else ""
    return next(filter(None, (_not_finite(part, place) for place, part in parts)), "")


class _Side(BaseModel):
    """What a comparison asks of one side's clips."""

    hash: str


class _Data(BaseModel):
    """What a comparison asks of a result's data."""

    real: _Side | None = None


class _Comparable(BaseModel):
    """What a comparison asks of a result, whatever else stands in it."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    metric: str
    value: float
    n: Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]]
    protocol_hash: str
    data: _Data | None = None
    scores: dict[str, float] | None = None
    halves: Annotated[list[float], Field(min_length=2)] | None = None


def read_result(path: Path) -> dict[str, Any]:
    """Return a result. Raises DataError if the file is none, or what a comparison needs of it is of another type."""
    result = read_json(path)
    try:
        _Comparable.model_validate(result)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the whole of it"
        raise DataError(
            f"{path}: no result of `lavie eval`, which has metric, value, n and protocol_hash: {place}: {fault['msg']}"
        ) from None
    return result


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return b less a, with the error of the difference where the two were measured on the same draws or clips.

    1. Results of other metrics, protocols, weights, numbers of clips or reals are refused: they do not compare.
    2. Scores by clip are paired by the clips' names.
    3. Distances of sets are paired by their halves, which both results draw by the same seed.

    Raises:
        DataError: the results do not compare; the message says in what.
    """
    for key, what in (("metric", "metrics"), ("protocol_hash", "protocols"), ("n", "numbers of clips")):
        if a[key] != b[key]:
            hint = (
                " (steps, frames, seed, weights, captions: see protocol, weights and data in both)"
                if key == "protocol_hash"
                else ""
            )
            raise DataError(f"two {what} do not compare: {a[key]} and {b[key]}{hint}")
    reals = [((result.get("data") or {}).get("real") or {}).get("hash") for result in (a, b)]
    if reals[0] != reals[1]:
        raise DataError(f"two sets of real clips do not compare: data.real.hash {reals[0]} and {reals[1]}")

    difference = b["value"] - a["value"]
    found: dict[str, Any] = {"metric": a["metric"], "a": a["value"], "b": b["value"], "difference": difference}
    if a.get("scores") and b.get("scores"):
        return found | _by_clip(a["scores"], b["scores"])
    if a.get("halves") and b.get("halves"):
        if len(a["halves"]) != len(b["halves"]):
            raise DataError(f"two numbers of halves do not compare: {len(a['halves'])} and {len(b['halves'])}")
        error = float(np.std(np.subtract(b["halves"], a["halves"]), ddof=1))
        return found | {"paired_by": "halves", "pairs": len(a["halves"])} | _told(difference, error)
    return found | {"paired_by": None}


def _by_clip(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Any]:
    """Return the mean difference over clips of the same name, with its error."""
    if a.keys() != b.keys():
        alone = sorted(a.keys() ^ b.keys())
        raise DataError(f"{len(alone)} clips stand in one of the results only, as {alone[0]}: wanted the same names")
    if len(a) < 2:
        raise DataError(f"{len(a)} clip: a paired difference needs 2 or more")
    differences = np.array([b[name] - a[name] for name in a])
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return {"paired_by": "clips", "pairs": len(differences)} | _told(float(differences.mean()), error)


def _told(difference: float, error: float) -> dict[str, Any]:
    """Return an error, the interval, and in words whether zero lies outside."""
    low, high = interval(difference, error)
    decided = "b is higher" if low > 0 else "b is lower" if high < 0 else "undecidable"
    return {"standard_error": error, "interval": [low, high], "verdict": decided}
