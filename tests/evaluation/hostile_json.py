"""JSON as careless or hostile hands leave it, for the tests of everything that reads JSON."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lavie.errors import LavieError

MARK = "\u2603 here"
"""Stands in a document where a text that is no value of Python's json goes."""
VALUES = (
    *("null", "true", "-1", "0", "1e308", "-1e308", "[]", "{}", '""', '"x"', '"\\ud800"', '[{"x": [0.5]}]', "[[1], 2]"),
    *("NaN", "-Infinity", "1e400", "9" * 400, "9" * 5000, "[" * 9000 + "]" * 9000, '{"a": 1, "a": 2}', "0.5, 0.5"),
)
"""What a value is replaced by."""
WHOLE = (b"", b"\xff\xfe{", b"\x00", b'{"a": "\xe4"}', b"{", b"[", *(value.encode() for value in VALUES))
"""What a whole document is replaced by."""


def variants(document: Any) -> Iterator[bytes]:
    """Yield a document with each of its values replaced by each of VALUES, without each of its names, and WHOLE."""
    yield from WHOLE
    for path in _paths(document):
        *above, last = path
        for text in VALUES:
            yield json.dumps(_changed(document, above, last, MARK)).replace(json.dumps(MARK), text).encode()
        if isinstance(last, str):
            yield json.dumps(_changed(document, above, last, None, drop=True)).encode()


def _paths(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Yield the paths of all values inside a value; of lists, the first two places."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, part in items:
        yield (*at, key)
        yield from _paths(part, (*at, key))


def _changed(document: Any, above: list, last: Any, value: Any, drop: bool = False) -> Any:
    """Return a copy of a document in which one value is another, or is missing."""
    copy = json.loads(json.dumps(document))
    place = copy
    for key in above:
        place = place[key]
    if drop:
        del place[last]
    else:
        place[last] = value
    return copy


def survives(path: Path, document: Any, use: Callable[[Path], object]) -> int:
    """Call `use` on a file with every variant of a document: it returns, or raises a LavieError.

    Returns:
        how many were refused.
    """
    refused = 0
    for content in variants(document):
        path.write_bytes(content + b"\n")
        try:
            use(path)
        except LavieError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{content[:200]!r}: {type(error).__name__}: {error}")
    return refused
