"""A grid of one prompt: its clips for each of some seeds (rows) and scales of guidance (columns), on one sheet."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..config.train import LARGEST_GUIDANCE
from ..errors import ConfigError
from .prompt_file import Request

Number = TypeVar("Number", int, float)
LARGEST_GRID = 400
"""Clips of a grid, at most: a sheet of more is too large to be looked at."""


def grid_requests(
    requests: Sequence[Request], seeds: Sequence[int], scales: Sequence[float], *, stage: str | None = None
) -> list[Request]:
    """Return each request once for each seed and scale of guidance, row by row: all scales of the first seed first.

    Args:
        requests: prompts without seed and guidance of their own.
        seeds: those of the noise.
        scales: of classifier-free guidance.
        stage: the stage of a cascade whose guidance is meant; None: the settings are of one stage.

    Raises:
        ConfigError: there is no seed or no scale, too many of both, or a request has its own.
    """
    if not seeds or not scales:
        raise ConfigError("a grid needs both: --grid-seeds 0,1,2 and --grid-guidance 4,7.5,10")
    if len(seeds) * len(scales) * len(requests) > LARGEST_GRID:
        raise ConfigError(
            f"--grid-seeds, --grid-guidance: got {len(requests)} prompts x {len(seeds)} seeds x {len(scales)} scales: "
            f"wanted {LARGEST_GRID} clips at most"
        )
    cells = []
    for request in requests:
        own = request.changes if stage is None else {**request.changes, **request.changes.get(stage, {})}
        for name in ("seed", "guidance_scale"):
            if name in own:
                raise ConfigError(f"{request.source}: {name} is what the grid varies: drop it there, or the grid")
        for seed in seeds:
            for scale in scales:
                guidance = {"guidance_scale": scale}
                changed = guidance if stage is None else {stage: {**request.changes.get(stage, {}), **guidance}}
                caption = f"seed {seed}, guidance {scale:g}: {request.prompt}"
                cells.append(Request(request.prompt, {**request.changes, "seed": seed, **changed}, "a grid", caption))
    return cells


def read_seeds(text: str) -> list[int]:
    """Return the seeds of --grid-seeds, as "0,1,2". Raises ConfigError for anything else."""
    return _read(text, int, "--grid-seeds", "whole numbers, as 0,1,2")


def read_scales(text: str) -> list[float]:
    """Return the scales of --grid-guidance, as "4,7.5". Raises ConfigError for anything else."""
    scales = _read(text, float, "--grid-guidance", "numbers, as 4,7.5")
    if not all(0 <= scale <= LARGEST_GUIDANCE for scale in scales):
        raise ConfigError(f"--grid-guidance {text}: wanted numbers of 0 to {LARGEST_GUIDANCE:g}, as 4,7.5")
    return scales


def _read(text: str, kind: Callable[[str], Number], option: str, wanted: str) -> list[Number]:
    """Return distinct numbers that stand between commas."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}: wanted {wanted}") from None
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{option} {text}: a number stands there twice")
    return numbers
