"""A strict reader of the headers of a tar: nothing is extracted, followed or guessed.

Python's tarfile takes a damaged header in the middle for the end of the archive, so that all later samples are lost
without a word, and several of its versions hang on crafted headers (CVE-2024-6232, CVE-2025-8194). Here an archive
either ends at its end mark or is an error, and every header costs bounded time and memory.

A tar is a sequence of blocks of 512 bytes. Each member is a header block and its data, padded to whole blocks. The
fields of a header used here, by their byte offsets (POSIX.1-1988, "ustar"): name 0:100, size 124:136, checksum 148:156,
type 156, magic 257:263, prefix of the name 345:500. An extended header is a member of its own whose data describes the
member after it. Two blocks of zeros end the archive.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from ...errors import DataError

BLOCK = 512
"""Bytes of a block."""
MAX_EXTENDED = 1 << 16
"""Most bytes of an extended header, 64 KiB: long names have a few hundred."""
FILES, FOLDER = b"0\0007", b"5"
"""Types of regular files (0, the NUL of old archives, and 7 for contiguous files), and of folders."""
WITHOUT_DATA = b"12346"
"""Types of links, devices and pipes: whatever size they state, no data follows."""
EXTENDED = b"LKxgX"
"""Types of extended headers: GNU's long name (L) and long link (K), pax records for one member (x, X) or all (g)."""
GNU_SPARSE = b"S"
"""Type of a GNU sparse file, whose list of holes may go on in blocks between header and data."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar: a file, a folder, or something else."""

    name: str
    """Path inside the tar. Bytes that are not UTF-8 are shown as `\\x..`."""
    kind: Literal["file", "folder", "other"]
    """other: a link, a device, a pipe, a sparse file, or an unknown type."""
    offset: int
    """Position of the member's first byte in the tar."""
    size: int
    """Number of the member's bytes."""

    def read(self, file: BinaryIO) -> bytes:
        """Return the member's bytes from its open tar."""
        file.seek(self.offset)
        return file.read(self.size)


def read_members(path: Path) -> Iterator[Member]:
    """Yield the members of an uncompressed tar (ustar, GNU or pax) in order.

    Raises:
        DataError: after the members before it, at the first header that is damaged, where the archive is cut short, or
            where anything but zeros follows its end mark.
    """
    try:
        with open(path, "rb") as file:
            yield from _members(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise DataError(f"shard {path}: cannot be read: {error}") from None
    except _Damage as error:
        raise DataError(f"shard {path}: cannot be read: {error}") from None


class _Damage(Exception):
    """A fault of the archive; the message says where."""


def _members(file: BinaryIO, end: int) -> Iterator[Member]:
    """Yield the members of a tar of `end` bytes."""
    offset = 0
    records: dict[str, str] = {}  # what extended headers say about the next member: path, size and others
    while True:
        block = _read_block(file, offset, end)
        if not any(block):
            _check_end(file, offset, end)
            return
        _check_sum(block, offset)
        kind = block[156:157]
        size = _number(block[124:136], offset)
        data = offset + BLOCK
        if kind == GNU_SPARSE:
            data = _after_holes(file, block, data, end)

        if kind in EXTENDED:
            records |= _extended_records(file, kind, data, size, offset)
            offset = _following(data, size, end)
            continue

        # An extended header overrules the fields of the header itself.
        if "size" in records:
            size = _size_record(records["size"], offset)
        if kind in WITHOUT_DATA:
            size = 0
        name = records.get("path") or _name(block)
        sparse = any(key.startswith("GNU.sparse.") for key in records)

        # The end of the data is checked before the member is given out.
        following = _following(data, size, end)
        if kind == FOLDER or (kind == b"\0" and name.endswith("/")):
            yield Member(name.rstrip("/"), "folder", data, size)
        else:
            yield Member(name, "file" if kind in FILES and not sparse else "other", data, size)
        offset, records = following, {}


def _read_block(file: BinaryIO, offset: int, end: int) -> bytes:
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise _Damage(f"cut short: no end mark within its {end} bytes. Pack or copy it anew")
    return block


def _check_end(file: BinaryIO, offset: int, end: int) -> None:
    """Check that at least two blocks of zeros begin at `offset`, and that nothing else follows them."""
    if end < offset + 2 * BLOCK:
        raise _Damage(f"cut short: no end mark within its {end} bytes. Pack or copy it anew")
    file.seek(offset)
    while piece := file.read(1 << 20):
        if any(piece):
            raise _Damage(f"data follows its end mark at byte {offset}")


def _check_sum(block: bytes, offset: int) -> None:
    """Check a header's checksum: the sum of its bytes, the checksum itself counted as blanks.

    Some old programs added up signed bytes, so either sum is taken.
    """
    rest = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in rest) if max(rest) > 127 else sum(rest)
    if _number(block[148:156], offset) not in (sum(rest), signed):
        raise _Damage(f"the header at byte {offset} is damaged, or this is no tar")


def _number(field: bytes, offset: int) -> int:
    """Return the number in a header's field: octal digits, or GNU's base 256 after a first byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise _Damage(f"the header at byte {offset} is damaged, or this is no tar")
    return int(digits or b"0", 8)


def _following(data: int, size: int, end: int) -> int:
    """Return the position of the header after a member whose `size` bytes begin at `data`."""
    if data + size > end:
        raise _Damage(f"cut short: a member of {size} bytes at byte {data} of {end}. Pack or copy it anew")
    return data + -(-size // BLOCK) * BLOCK


def _after_holes(file: BinaryIO, block: bytes, data: int, end: int) -> int:
    """Return where the data of a GNU sparse file begins: after the blocks that continue its list of holes."""
    continued = block[482]
    while continued:
        continued = _read_block(file, data, end)[504]
        data += BLOCK
    return data


def _extended_records(file: BinaryIO, kind: bytes, data: int, size: int, offset: int) -> dict[str, str]:
    """Return what an extended header says about the next member; a long link's target is not needed."""
    if size > MAX_EXTENDED:
        raise _Damage(f"the extended header at byte {offset} has {size} bytes, at most {MAX_EXTENDED} are read")
    file.seek(data)
    text = file.read(size)
    if kind == b"L":
        return {"path": _text(text.rstrip(b"\0"))}
    if kind in b"xX":
        return _pax_records(text, offset)
    if kind == b"g" and _pax_records(text, offset).keys() & {"path", "size"}:
        raise _Damage(f"the global header at byte {offset} sets a path or a size for every member")
    return {}


def _pax_records(text: bytes, offset: int) -> dict[str, str]:
    """Parse records of the form `length key=value newline`, where length counts the whole record in bytes."""
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


def _size_record(text: str, offset: int) -> int:
    """Return the size in a pax record: decimal digits, too few for Python's slow conversion of huge numbers."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _Damage(f"the header at byte {offset} has the size {text[:40]!r}")
    return int(text)


def _name(block: bytes) -> str:
    """Return the name in a header; ustar keeps the first part of a long one in a field of its own."""
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    return _text(prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name)


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
