"""What earlier calls have packed, beside what a source holds now."""

import hashlib
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from ...errors import DataError
from ..shards.index_file import Rejected
from .captioned_file import CaptionedFile
from .captions import clean_caption
from .examine import Examined
from .pack_record import Line


class Earlier:
    """The lines of a record, compared with the files of one source.

    Attributes:
        kept: number of files of the source that are packed and as they were.
    """

    def __init__(self, lines: Iterable[Line], src: str, present: AbstractSet[str] | None = None) -> None:
        """Compare the lines of a record with a source.

        Args:
            lines: of the record.
            src: the source that is read now.
            present: the names of all its files, if they are known: a packed file whose name is gone may have another.
        """
        self._src = src
        lines = list(lines)
        self._next = 1 + max((line.number for line in lines), default=-1)
        # The last line of a name counts: a file that could not train may have been mended since.
        self._by_name = {line.name: line for line in lines if line.src == src}
        self._elsewhere = {_content(line) for line in lines if line.src != src and line.shard}
        gone = [
            line for line in self._by_name.values() if line.shard and present is not None and line.name not in present
        ]
        self._gone = {_content(line): line for line in gone}
        self._seen: set[str] = set()
        self._changed: list[Rejected] = []
        self.kept = 0

    def line_of(self, file: CaptionedFile) -> Line | None:
        """Return what was recorded of a file, None if it is new."""
        return self._by_name.get(file.name)

    def is_same(self, file: CaptionedFile, line: Line) -> bool:
        """Return whether a file is certain to be as it was recorded, without reading it."""
        return bool(file.stamp) and (file.stamp, caption_hash(file)) == (line.stamp, line.caption_sha256)

    def compare(self, file: CaptionedFile, line: Line, found: Examined | None) -> None:
        """Count a packed file as kept or changed.

        Args:
            file: the file as it is now.
            line: as it was packed.
            found: its examination; None if it is certain to be the same.
        """
        self._seen.add(file.name)
        changes = []
        if caption_hash(file) != line.caption_sha256:
            changes.append("caption changed")
        if found is not None and found.sha256 and found.sha256 != line.sha256:
            changes.append("media changed")
        if changes:
            detail = f"{line.shard} holds it as it was: pack into another folder to take the change"
            self._changed.append(Rejected(file.name, " and ".join(changes), detail))
        else:
            self.kept += 1

    def packed_by_another_name(self, file: CaptionedFile, found: Examined) -> bool:
        """Return whether the same medium with the same caption is packed, and count the file as kept.

        It may have come from another source, or from this one by a name that is gone.
        """
        content = (found.sha256, caption_hash(file), str(file.segment or ""))
        if found.info is None or not (content in self._elsewhere or content in self._gone):
            return False
        if line := self._gone.pop(content, None):
            self._seen.add(line.name)
            self._changed.append(Rejected(file.name, "renamed", f"{line.shard} holds it as {line.name}"))
        self.kept += 1
        return True

    def number(self, position: int) -> int:
        """Return the number of a new file: its position in the source, or the next one that no file has."""
        number = max(position, self._next)
        self._next = number + 1
        return number

    def line(self, file: CaptionedFile, found: Examined, number: int, shard: str | None) -> Line:
        """Return the line to record of a new file."""
        return Line(
            src=self._src,
            name=file.name,
            number=number,
            stamp=file.stamp,
            sha256=found.sha256,
            caption_sha256=caption_hash(file),
            segment=str(file.segment or ""),
            shard=shard,
            reason=found.reason,
            detail=found.detail,
        )

    def changed(self) -> list[Rejected]:
        """Return the packed files that have changed, and those that the source has no more."""
        gone = [line for line in self._by_name.values() if line.shard and line.name not in self._seen]
        detail = "{} still holds it: pack into another folder to be rid of it"
        return self._changed + [Rejected(x.name, "gone from the source", detail.format(x.shard)) for x in gone]


def caption_hash(file: CaptionedFile) -> str:
    """Return the SHA-256 of a file's clean caption, or of the raw one where that is refused."""
    try:
        caption = clean_caption(file.caption).encode()
    except DataError:
        caption = file.caption if isinstance(file.caption, bytes) else file.caption.encode(errors="replace")
    return hashlib.sha256(caption).hexdigest()


def _content(line: Line) -> tuple[str, str, str]:
    """Return what makes two packed files the same sample."""
    return line.sha256, line.caption_sha256, line.segment
