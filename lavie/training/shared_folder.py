"""Whether all ranks of a run see one output_dir: a folder of a node's own disk has the same path on every node."""

import os
import secrets
import socket
from pathlib import Path

from ..distributed import broadcast_object, gather_objects, is_main
from ..errors import ConfigError
from ..files import appears
from ..launcher import name_ranks


def require_shared(folder: str | Path) -> None:
    """Check that what rank 0 writes into a folder is seen by every rank. Collective.

    Raises:
        ConfigError: rank 0 cannot write there, or the ranks that the message names do not see it.
    """
    folder = Path(folder)
    path, refusal = broadcast_object(_mark(folder) if is_main() else None)
    if refusal:
        raise ConfigError(refusal)
    answers = gather_objects((socket.gethostname(), appears(path)))
    if is_main():
        path.unlink(missing_ok=True)
    blind = [number for number, (_, seen) in enumerate(answers) if not seen]
    if blind:
        hosts = ", ".join(sorted({answers[number][0] for number in blind}))
        raise ConfigError(
            f"output_dir {folder} is another folder for {name_ranks(blind, len(answers))} on {hosts} than for "
            f"rank 0 on {answers[0][0]}: set it to a folder on a disk that all nodes share"
        )


def _mark(folder: Path) -> tuple[Path, str | None]:
    """Make a file that nobody else makes, and return its path, and why it could not be made."""
    path = folder / f".shared-{secrets.token_hex(8)}"
    try:
        with path.open("x") as file:
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return path, f"output_dir {folder} cannot be written: {error.strerror}"
    return path, None
