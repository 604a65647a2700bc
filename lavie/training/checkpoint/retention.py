"""Which checkpoints of a run stay on the disk, and what becomes of folders that a killed process left behind.

1. A folder gets its name checkpoint-STEP by one rename, when all of it is on the disk. Before, it is
   .checkpoint-STEP.partial; one that is replaced or deleted is .checkpoint-STEP.old for the while.
2. A process may be killed between two renames. The next start looks at hidden folders: a complete one takes its place
   back if no other holds it (`adopt`). The next save does so too, and deletes what is left (`sweep`).
3. `prune` deletes older checkpoints, after a newer one is on the disk. A folder of any other name is a user's.
"""

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from ...distributed import log
from ...run_folder import NAME, checkpoint_folder, checkpoints, step_of
from ...tensor_file import sync_folder

HIDDEN = re.compile(rf"\.{NAME.pattern}\.(partial|old)")


def partial_of(final: Path) -> Path:
    """Return where a checkpoint folder is written before it has its name."""
    return final.with_name(f".{final.name}.partial")


def publish(partial: Path, final: Path) -> None:
    """Give a complete folder its name, in place of one of the same step, and put the change on the disk.

    One that was to be replaced has its name back if that fails.

    Raises:
        OSError: it cannot be renamed.
    """
    replaced = final.with_name(f".{final.name}.old")
    if final.exists():
        final.rename(replaced)
    try:
        partial.rename(final)
    except OSError:
        if replaced.exists():
            replaced.rename(final)
        raise
    sync_folder(final.parent)
    _delete(replaced)


def adopt(run: Path, damage_of: Callable[[Path], str | None]) -> list[Path]:
    """Give complete hidden folders of a run their names back where no complete one has them; return the new paths.

    Args:
        run: the run's folder.
        damage_of: returns what is wrong with a checkpoint folder; None if it is complete.
    """
    adopted = []
    for path in sorted(hidden(run), key=lambda path: path.suffix, reverse=True):  # what replaces before what was
        final = checkpoint_folder(run, step_of_hidden(path))
        if damage_of(path) is not None or (final.exists() and damage_of(final) is None):
            continue
        if final.exists():
            final.rename(_free(final.with_name(f".{final.name}.damaged")))  # for its user to look at
        path.rename(final)
        sync_folder(run)
        log.warning(f"{path} is a complete checkpoint that lay hidden: it is {final.name} now")
        adopted.append(final)
    return adopted


def sweep(run: Path, damage_of: Callable[[Path], str | None]) -> None:
    """Delete what killed processes and failed saves have left of checkpoints in a run's folder.

    What is complete may be the only one of its step, and gets its name back: see `adopt` and its arguments.
    """
    adopt(run, damage_of)
    for path in hidden(run):
        _delete(path)


def prune(run: Path, step: int, limit: int | None, keep_every: int | None) -> None:
    """Delete the oldest checkpoints of a run, after that of `step` is on the disk.

    Those of later steps are of another try, and stay. So do links, whose folders somebody has put elsewhere.

    Args:
        run: the run's folder.
        step: the newest step.
        limit: how many stay, that of `step` among them; None for all.
        keep_every: the multiples of this step stay beside them; None for none.
    """
    if limit is None:
        return
    up_to_step = [folder for folder in checkpoints(run) if step_of(folder) <= step and not folder.is_symlink()]
    for folder in up_to_step[:-limit]:
        if keep_every and step_of(folder) % keep_every == 0:
            continue
        # Half deleted, it must not look like a checkpoint.
        try:
            _delete(folder.rename(folder.with_name(f".{folder.name}.old")))
        except OSError as error:
            log.warning(f"{folder} could not be deleted and takes room: {error}")


def _free(path: Path) -> Path:
    """Return a path, or the first of PATH-2, PATH-3, ... at which nothing lies."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(free for free in itertools.chain([path], numbered) if not free.exists())


def hidden(run: Path) -> list[Path]:
    """Return the folders of a run that `publish` and `prune` leave when they are killed."""
    return [path for path in run.glob(".checkpoint-*") if HIDDEN.fullmatch(path.name) and path.is_dir()]


def step_of_hidden(folder: Path) -> int:
    """Return the step of one of the folders that `hidden` returns."""
    match = HIDDEN.fullmatch(folder.name)
    assert match
    return int(match[1])


def _delete(folder: Path) -> None:
    """Delete a folder, if it is there; say so where that fails, for it takes as much room as a checkpoint."""
    if not folder.exists():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        log.warning(f"{folder} could not be deleted and takes room: {error}")
