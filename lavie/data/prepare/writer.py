"""The writing of shards, each whole or not at all, with an index beside it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from webdataset import TarWriter

from ..media.decode import MediaInfo
from ..shards.index_file import write_index
from .pack_record import shard_path
from .scan import index_shard

SHARD_BYTES = 256 << 20
"""Bytes at which a shard is closed by default: large enough for sequential disks, small enough to copy again."""


class ShardWriter:
    """Writes the shards `00000.tar`, `00001.tar` and so on with their indices into a folder.

    The same input gives the same bytes. A shard gets its name only when it is complete, so an interrupted run leaves no
    half shard. Use it in a `with` block, whose end closes the last shard.
    """

    def __init__(
        self,
        out: Path,
        shard_bytes: int = SHARD_BYTES,
        *,
        first: int = 0,
        finished: Callable[[Path], None] = lambda shard: None,
    ) -> None:
        """Make the folder `out`.

        Args:
            out: the folder.
            shard_bytes: a shard is closed before the sample that would make it larger.
            first: the number of the first shard.
            finished: called with the path of each shard that is complete, its index too.
        """
        self._out, self._limit, self._first, self._finished = out, shard_bytes, first, finished
        self._known: dict[str, MediaInfo] = {}
        """What the media of the unfinished shard holds, by key: the index is made without decoding it again."""
        self._file: Any = None
        self._tar: Any = None
        self.shards: list[Path] = []
        """Paths of the finished shards."""
        out.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        elif self._file:
            self._tar.close()
            self._file.close()
            self._partial.unlink()

    def add(self, key: str, media: bytes, info: MediaInfo, caption: str, notes: dict[str, Any]) -> None:
        """Append one sample: members `{key}.{info.format}` and `{key}.txt`, and `notes` as `{key}.json`."""
        if self._file and self._file.tell() + len(media) > self._limit:
            self._finish()
        if not self._file:
            self._file = open(self._partial, "wb")  # noqa: SIM115 (closed by _finish or __exit__)
            self._tar = TarWriter(self._file, encoder=False, mtime=0, user="lavie", group="lavie")
        members = {
            info.format: media,
            "txt": caption.encode(),
            "json": json.dumps(notes, ensure_ascii=False, sort_keys=True).encode(),
        }
        self._tar.write({"__key__": key, **members})
        self._known[key] = info

    @property
    def name(self) -> str:
        """The name that the shard of the last sample has once it is finished."""
        return self._path.name

    @property
    def _path(self) -> Path:
        """The name of the unfinished shard once it is finished."""
        return shard_path(self._out, self._first + len(self.shards))

    @property
    def _partial(self) -> Path:
        """The name of the unfinished shard until then."""
        return shard_path(self._out, self._first + len(self.shards), partial=True)

    def _finish(self) -> None:
        """Close the shard, give it its name, and write its index; nothing if no sample was added since the last."""
        if not self._file:
            return

        # The bytes must be on the disk before the name promises them.
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = self._path
        os.replace(self._partial, path)

        # The index is made from the shard as it was written, not from what should be in it.
        samples, rejected, _ = index_shard(path, self._known)
        if rejected:
            raise AssertionError(f"wrote {path} and cannot read it back: {rejected[:3]}")
        write_index(path, samples)
        self.shards.append(path)
        self._known, self._file, self._tar = {}, None, None
        self._finished(path)
