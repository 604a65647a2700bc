"""JSON that anybody may have written or edited, read strictly: whatever is wrong with it is a ValueError."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from .errors import DataError


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text, whose numbers are finite and fit a float, and whose names stand there once.

    Raises:
        ValueError: it is none, or no UTF-8; it holds NaN, Infinity, a number above 1.8e308, or a name twice in one
            object; or its brackets are nested too deep.
    """
    try:
        return json.loads(
            text, object_pairs_hook=once, parse_constant=_refused, parse_float=_finite, parse_int=_bounded
        )
    except RecursionError:
        raise ValueError("brackets nested too deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8, at byte {error.start}") from None


def require_unicode(value: Any) -> Any:
    r"""Return a value of `parse_json` whose texts can be written. Raises ValueError for half of a pair, as "\ud800"."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object[error.start]!a} is half of a character: wanted Unicode") from None
    except RecursionError:
        raise ValueError("brackets nested too deep") from None
    return value


def read_json(path: Path, option: str = "") -> Any:
    """Return the value in a JSON file.

    Args:
        path: the file.
        option: the option that named it, for the message.

    Raises:
        DataError: the file cannot be read; see `parse_json`.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{option} {path}: cannot be read: {error}".lstrip()) from None


def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return names and values as an object. Raises ValueError if a name stands twice, of which one would be lost."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands there twice: leave one of them out")
        found[name] = value
    return found


def _refused(word: str) -> NoReturn:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(f"{word} is no number of JSON")


def _finite(digits: str) -> float:
    """Return a number. Raises ValueError if no float holds it."""
    if math.isinf(value := float(digits)):
        raise ValueError(f"{digits[:20]} is too large a number")
    return value


def _bounded(digits: str) -> int:
    """Return a whole number. Raises ValueError if no float holds it."""
    _finite(digits)
    return int(digits)
