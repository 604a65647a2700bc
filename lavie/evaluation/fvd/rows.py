"""Rows of features and the files that keep them.

A file of features is a .safetensors of one tensor for each set ("real", "fake", ...), with the names of its clips, and
a key that says what the rows were made by. While rows are made they lie in part files beside it, one for each process,
so that a call that was cut loses little.
"""

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...config.base import Strict
from ...distributed import gather_objects, rank, world_size
from ...errors import CheckpointError, DataError
from ...files import replacing
from ..clip_source import OpenClip
from ..measured import hash_of_clips

Moved = Callable[[int, int], None]
"""Told the number of clips done and of all."""
SAVE_SECONDS = 30.0
"""Time between two savings of a part file."""


class Row(NamedTuple):
    """The features of one clip."""

    digest: str
    """SHA-256 of the clip's bytes and its first frame, as `abc...@0`."""
    features: np.ndarray
    """float32 (D,), or (F, D) where each frame has some."""


@dataclass
class Rows:
    """The features of some clips."""

    names: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    """Name -> why it was left out."""

    def add(self, name: str, row: Row) -> None:
        """Take one row more. Raises CheckpointError if it has not as many features as the others."""
        self._require_shape(row.features)
        self.names.append(name)
        self.digests.append(row.digest)
        self.features.append(row.features)

    def join(self, other: "Rows") -> None:
        """Take the rows of another set.

        Raises:
            DataError: both have a clip.
            CheckpointError: theirs are not as many features.
        """
        for features in other.features[:1]:
            self._require_shape(features)
        if twice := sorted(set(self.names) & set(other.names)):
            raise DataError(f"{len(twice)} clips stand in two sets, as {twice[0]}: name each clip once")
        self.names += other.names
        self.digests += other.digests
        self.features += other.features
        self.dropped |= other.dropped

    def _require_shape(self, features: np.ndarray) -> None:
        """Raise CheckpointError unless features are as many as those of the rows that are there."""
        if self.features and features.shape != self.features[0].shape:
            raise CheckpointError(
                f"features {features.shape} of one clip and {self.features[0].shape} of another: wanted a network "
                "that gives every clip as many"
            )

    def by_name(self) -> "Rows":
        """Return the rows sorted by name."""
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        return Rows(
            [self.names[i] for i in order],
            [self.digests[i] for i in order],
            [self.features[i] for i in order],
            dict(sorted(self.dropped.items())),
        )

    @property
    def matrix(self) -> np.ndarray:
        """All features, float64 (n, D); the frames of clips one below another."""
        return np.concatenate([np.atleast_2d(row) for row in self.features]).astype(np.float64)

    @property
    def data_hash(self) -> str:
        """The hash of what the rows were made of, whatever the names of the files."""
        return hash_of_clips(self.digests)


def write_rows(path: Path, sets: Mapping[str, tuple[str, Rows]]) -> None:
    """Write sets of rows, each with its key, as a file of features."""
    tensors = {name: np.stack(rows.features).astype(np.float32) for name, (_, rows) in sets.items()}
    metadata = {
        name: json.dumps({"key": key, "names": rows.names, "digests": rows.digests, "dropped": rows.dropped})
        for name, (key, rows) in sets.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_rows(path: Path) -> dict[str, tuple[str, Rows]]:
    """Return the sets of a file of features, each with its key.

    Raises:
        DataError: the file cannot be read, or is no file of features.
    """
    try:
        with safe_open(path, "numpy") as file:
            found = {name: _rows_of_file(text, file.get_tensor(name)) for name, text in (file.metadata() or {}).items()}
    except ValidationError as error:
        fault = error.errors()[0]
        raise DataError(f"{path}: no file of features: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise DataError(f"{path}: no file of features: {error}") from None
    if not found:
        raise DataError(f"{path}: no file of features: it holds no set of rows")
    return found


class _Notes(Strict):
    """What stands beside the features of a set."""

    key: str
    names: list[str]
    digests: list[str]
    dropped: dict[str, str]


def _rows_of_file(text: str, features: np.ndarray) -> tuple[str, Rows]:
    """Return a set of a file, with its key. Raises ValueError where it is none."""
    notes = _Notes.model_validate_json(text)
    if features.dtype.kind != "f" or features.ndim not in (2, 3):
        raise ValueError(f"a tensor {features.shape} of {features.dtype}: wanted numbers of (clips, features)")
    if not len(notes.names) == len(notes.digests) == len(features):
        raise ValueError(f"{len(notes.names)} names and {len(features)} rows")
    if twice := [name for name, count in Counter(notes.names).items() if count > 1]:
        raise ValueError(f"{twice[0]} stands there twice")
    finite = np.isfinite(features).reshape(len(features), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"the features of {notes.names[int(finite.argmin())]} hold NaN or infinity: make them again")
    return notes.key, Rows(notes.names, notes.digests, list(features.astype(np.float32)), notes.dropped)


class Source(Protocol):
    """Something that a row is made of: a clip, or some frames of one."""

    @property
    def name(self) -> str:
        """A name that no other source has."""
        ...

    def open(self) -> OpenClip:
        """Read the bytes of the clip. Raises OSError or DataError where that fails."""
        ...


AnySource = TypeVar("AnySource", bound=Source)


class Kept:
    """The rows that earlier calls have made, and those that this process makes."""

    def __init__(self, path: Path | None, key: str) -> None:
        """Read the file of features and the part files beside it.

        Args:
            path: the file of features, there or not yet there; None keeps nothing.
            key: rows of other keys are not looked at.
        """
        self._path, self._key = path, key
        self._made, self._saved, self._time = Rows(), 0, time.monotonic()
        self._found: dict[tuple[str, str], Row] = {}
        for file in [path, *_parts(path, key)] if path else ():
            try:
                sets = read_rows(file)
            except DataError:
                if file.exists():
                    raise
                continue  # another call, which has done the same work, has just put it away
            for found_key, rows in sets.values():
                if found_key == key:
                    for name, digest, features in zip(rows.names, rows.digests, rows.features, strict=True):
                        self._found[name, digest.partition("@")[0]] = Row(digest, features)

    def find(self, name: str, sha256: str) -> Row | None:
        """Return the row that an earlier call made of a clip of these bytes, or None."""
        return self._found.get((name, sha256))

    def add(self, name: str, row: Row) -> None:
        """Keep a new row; now and then it is written."""
        self._made.add(name, row)
        if time.monotonic() - self._time > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is new to this process's part file."""
        if self._path is None or len(self._made.names) == self._saved:
            return
        name = f"{self._path.name}.{self._key}-{socket.gethostname()}-{os.getpid()}.part"
        write_rows(self._path.with_name(name), {"part": (self._key, self._made)})
        self._saved, self._time = len(self._made.names), time.monotonic()


def rows_of(
    sources: Sequence[AnySource], make: Callable[[AnySource, OpenClip], Row], kept: Kept, moved: Moved | None = None
) -> Rows:
    """Return the rows of sources, the same on every rank; all ranks call this and share the sources.

    What cannot be read, or made into a row, is left out and named.

    Args:
        sources: of distinct names.
        make: makes the row of a source whose clip is open; raises DataError where it cannot.
        kept: rows of the same bytes are taken from it, and new ones are added.
        moved: told the number of sources done and of all, of this rank.
    """
    own = Rows()
    share = sources[rank() :: world_size()]
    try:
        for done, source in enumerate(share):
            try:
                clip = source.open()
                row = kept.find(source.name, clip.sha256)
                if row is None:
                    row = make(source, clip)
                    kept.add(source.name, row)
                own.add(source.name, row)
            except (DataError, OSError) as error:
                own.dropped[source.name] = str(error)
            if moved:
                moved(done + 1, len(share))
    finally:
        kept.save()

    rows = Rows()
    for other in gather_objects(own):
        rows.join(other)
    return rows


def forget_parts(path: Path, keys: Iterable[str]) -> None:
    """Delete the part files of some keys beside a file of features, which holds all of their rows now."""
    for key in keys:
        for part in _parts(path, key):
            part.unlink(missing_ok=True)


def _parts(path: Path, key: str) -> list[Path]:
    """Return the part files of a key beside a file of features."""
    others = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    return [other for other in others if other.name.startswith(f"{path.name}.{key}-") and other.name.endswith(".part")]
