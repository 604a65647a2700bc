"""A run's folder on disk: its finished checkpoints, and the folders that stages are exported to."""

import re
from pathlib import Path

from .errors import CheckpointError

MANIFEST = "checkpoint.json"
"""In every finished checkpoint folder of a run."""


EXPORT = "export.json"
"""In every folder that `lavie export` or `lavie import` made."""


def checkpoints(run: str | Path) -> list[Path]:
    """The finished checkpoint-<step> folders of a run, oldest step first."""
    named = [p for p in Path(run).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted((p for p in named if (p / MANIFEST).is_file()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step of a folder checkpoint-<step>."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def newest_checkpoint(path: str | Path) -> Path:
    """`path` if it is a checkpoint folder, else the newest one in the run's folder `path`; else CheckpointError."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return path
    found = checkpoints(path)
    if not found and is_export(path):
        raise CheckpointError(f"{path} is an exported folder: a run starts from it by init_weights, and resumes none")
    if not found:
        raise CheckpointError(f"{path}: no checkpoint-<step> folder, nor one that holds them (no {MANIFEST})")
    return found[-1]


def is_export(path: str | Path) -> bool:
    """Whether `path` is a folder that `lavie export` or `lavie import` made."""
    return (Path(path) / EXPORT).is_file()


def find_stage(path: str | Path) -> Path:
    """The folder to sample a stage from: an exported folder, a checkpoint folder, or the newest one in a run's folder.

    It holds config.yaml and unet/. Raises CheckpointError if `path` is none of these.
    """
    return Path(path) if is_export(path) else newest_checkpoint(path)
