"""The headers of a tar, read strictly: nothing is extracted, followed or guessed.

Python's tarfile takes a damaged header in the middle for the end of the archive, so that all later samples are lost
without a word, and several of its versions hang on crafted headers (CVE-2024-6232, CVE-2025-8194). Here the archive
ends at its end mark or is an error, and every header costs bounded time and memory.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from ...errors import DataError

BLOCK = 512
MAX_NOTE = 1 << 16
"""Bytes of a long name or of pax records: names have a few hundred."""
FILES, FOLDER = b"0\0007", b"5"
WITHOUT_DATA = b"12346"
"""Links, devices and pipes: whatever size they state, no data follows."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tar."""

    name: str
    """UTF-8; what is not is shown as `\\x..`."""
    kind: Literal["file", "folder", "other"]
    """other: a link, a device, a pipe, a sparse file, or an unknown type."""
    offset: int
    size: int
    """Where its bytes lie."""


def read_members(path: Path) -> Iterator[Member]:
    """The entries of an uncompressed tar (ustar, GNU or pax) in order.

    Raises DataError, after the entries before it, at the first header that is damaged, where the archive is cut short,
    and where anything but zeros follows its end mark.
    """
    try:
        with open(path, "rb") as file:
            yield from _members(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise DataError(f"shard {path}: cannot be read: {error}") from None
    except _Damage as error:
        raise DataError(f"shard {path}: cannot be read: {error}") from None


class _Damage(Exception):
    pass


def _members(file: BinaryIO, end: int) -> Iterator[Member]:
    offset = 0
    notes: dict[str, str] = {}
    while True:
        block = _block(file, offset, end)
        if not any(block):
            _check_end(file, offset, end)
            return
        _check_sum(block, offset)
        kind = block[156:157]
        size = _number(block[124:136], offset)
        data = offset + BLOCK
        if kind == b"S":
            extended = block[482]
            while extended:
                extended = _block(file, data, end)[504]
                data += BLOCK
        if kind in b"LKxgX":
            text = _note(file, data, size, offset)
            if kind == b"L":
                notes["path"] = _text(text.rstrip(b"\0"))
            elif kind in b"xX":
                notes |= _pax(text, offset)
            elif kind == b"g" and _pax(text, offset).keys() & {"path", "size"}:
                raise _Damage(f"the global header at byte {offset} sets a path or a size for every member")
            offset = _next(data, size, end)
            continue
        if "size" in notes:
            if not (notes["size"].isascii() and notes["size"].isdigit() and len(notes["size"]) < 20):
                raise _Damage(f"the header at byte {offset} has the size {notes['size'][:40]!r}")
            size = int(notes["size"])
        if kind in WITHOUT_DATA:
            size = 0
        name = notes.get("path") or _name(block)
        sparse = any(key.startswith("GNU.sparse.") for key in notes)
        following = _next(data, size, end)
        if kind == FOLDER or (kind == b"\0" and name.endswith("/")):
            yield Member(name.rstrip("/"), "folder", data, size)
        else:
            yield Member(name, "file" if kind in FILES and not sparse else "other", data, size)
        offset, notes = following, {}


def _block(file: BinaryIO, offset: int, end: int) -> bytes:
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise _Damage(f"cut short: no end mark within its {end} bytes. Pack or copy it anew")
    return block


def _check_end(file: BinaryIO, offset: int, end: int) -> None:
    """Two blocks of zeros at least, and nothing else after them."""
    if end < offset + 2 * BLOCK:
        raise _Damage(f"cut short: no end mark within its {end} bytes. Pack or copy it anew")
    file.seek(offset)
    while piece := file.read(1 << 20):
        if any(piece):
            raise _Damage(f"data follows its end mark at byte {offset}")


def _check_sum(block: bytes, offset: int) -> None:
    rest = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in rest) if max(rest) > 127 else sum(rest)
    if _number(block[148:156], offset) not in (sum(rest), signed):
        raise _Damage(f"the header at byte {offset} is damaged, or this is no tar")


def _number(field: bytes, offset: int) -> int:
    """Octal digits, or base 256 after a first byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise _Damage(f"the header at byte {offset} is damaged, or this is no tar")
    return int(digits or b"0", 8)


def _next(data: int, size: int, end: int) -> int:
    """Where the header after a member lies."""
    if data + size > end:
        raise _Damage(f"cut short: a member of {size} bytes at byte {data} of {end}. Pack or copy it anew")
    return data + -(-size // BLOCK) * BLOCK


def _note(file: BinaryIO, data: int, size: int, offset: int) -> bytes:
    if size > MAX_NOTE:
        raise _Damage(f"the extended header at byte {offset} has {size} bytes, at most {MAX_NOTE} are read")
    file.seek(data)
    return file.read(size)


def _pax(text: bytes, offset: int) -> dict[str, str]:
    """Records of the form `length key=value newline`."""
    records = {}
    while text.rstrip(b"\0"):
        digits, blank, _ = text[:8].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        key, equals, value = text[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or not key or length > len(text) or text[length - 1 : length] != b"\n":
            raise _Damage(f"the extended header at byte {offset} is damaged")
        records[_text(key)] = _text(value)
        text = text[length:]
    return records


def _name(block: bytes) -> str:
    name, prefix = (part.split(b"\0")[0] for part in (block[:100], block[345:500]))
    return _text(prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name)


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
