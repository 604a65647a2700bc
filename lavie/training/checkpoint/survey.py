"""What lies in a run's folder: every checkpoint of it, and whether it is whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import CheckpointError
from ...manifest import OldLayoutError, damage, read_manifest, read_values
from ...run_folder import MANIFEST, checkpoint_candidates, is_checkpoint
from .convert import kept_at
from .retention import hidden


class Seen(NamedTuple):
    """A checkpoint's folder, as far as its manifest tells."""

    folder: Path
    manifest: dict[str, Any]
    """Empty where it cannot be read."""
    old: bool
    """Whether it is of the layout before, which has no hashes."""
    fault: str | None
    """What is wrong with the manifest."""

    def damage(self, *, hashes: bool, tick: Callable[[int], None] = lambda count: None) -> str | None:
        """Return everything that is wrong with the files, as one line; None if they are whole.

        Args:
            hashes: whether all bytes are read and hashed, or only the sizes are compared.
            tick: is told the bytes of every file that was looked at.
        """
        if self.fault:
            return self.fault
        faults = []
        for name, record in self.manifest.get("files", {}).items():
            fault = damage(self.folder, self.manifest, [name], hashes=hashes)
            tick(record["bytes"])
            if fault:
                faults.append(fault)
        return "; ".join(faults) or None


def survey(place: Path) -> list[Seen]:
    """Return the checkpoint that a path names, or those of the run that it names, the newest last.

    Behind those with a name of their own come hidden ones: what a killed process has left, and what conversions have
    kept.

    Raises:
        CheckpointError: it is neither, or the run has none.
    """
    if is_checkpoint(place):
        return [_look(place)]
    folders = checkpoint_candidates(place)
    old = [path for path in sorted(place.glob(f".checkpoint-*{kept_at(Path('x')).suffix}")) if path.is_dir()]
    folders += [*sorted(hidden(place)), *old]
    if not folders:
        raise CheckpointError(f"{place}: no checkpoint-<step> folder, nor one that holds them")
    return [_look(folder) for folder in folders]


def size_on_disk(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def written(folder: Path) -> float | None:
    """Return when a checkpoint was finished, in seconds since 1970; None if it was not."""
    path = folder / MANIFEST
    return path.stat().st_mtime if path.is_file() else None


def _look(folder: Path) -> Seen:
    """Read the manifest of a folder."""
    try:
        return Seen(folder, read_manifest(folder), False, None)
    except OldLayoutError:
        return Seen(folder, read_values(folder), True, None)
    except CheckpointError as error:
        return Seen(folder, {}, False, str(error))
