"""What the commands share that write a result of `lavie eval`: where it may go, and how it is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ..errors import ConfigError
from ..files import require_free, require_writable

MOST_FRAMES = 10_000
"""Frames of a clip that an evaluation looks at, at most: minutes of video."""
SEEDS: Any = {"min": -(2**63), "max": 2**63 - 1}
"""The seeds that a command takes, as options of typer: those of a run."""


def require_places(out: Path, features: Path | None, overwrite: bool) -> None:
    """Raise ConfigError unless a result can be written to `out`, and the features to a file of their kind."""
    if out.suffix != ".json":
        raise ConfigError(f"--out {out}: wanted a .json")
    if features is not None and features.suffix != ".safetensors":
        raise ConfigError(f"--features {features}: wanted a .safetensors")
    require_free(out, overwrite=overwrite)
    require_writable(out)
    if features is not None:
        require_writable(features)


def with_interval(name: str, result: Mapping[str, Any], digits: int = 4) -> str:
    """Return a result's name and value, with its interval where it has one."""
    line = f"{name} {result['value']:.{digits}f}"
    if not result["interval"]:
        return line
    low, high = result["interval"]
    return f"{line} (95 % {low:.{digits}f} to {high:.{digits}f})"


def print_origin(result: Mapping[str, Any], out: Path) -> None:
    """Print what to know of a result, by what protocol it was measured, and where it is."""
    for note in result["notes"]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"protocol {result['protocol_hash']}: {out}")
