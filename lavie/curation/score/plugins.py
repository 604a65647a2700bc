"""Scorers of other packages, each a stage `score-NAME` with columns of its own: NSFW, faces, a model of the user's.

A package offers a scorer by an entry point of the group `lavie.scorers`, whose name is the scorer's:

    [project.entry-points."lavie.scorers"]
    nsfw = "my_package.nsfw:Nsfw"

It is a class, or a function that makes an instance, as `ScorerFactory` says:

    class Nsfw:
        columns = ("nsfw",)
        frames = 4

        def __init__(self, model="nsfw.onnx"):
            self.model = load(model)

        def __call__(self, frames, row):
            return {"nsfw": max(map(self.model, frames))}

`scorers: {nsfw: {options: {model: other.onnx}}}` in the YAML, or `lavie curate score OUT --scorer nsfw`, runs it. Rules
name its columns as those of any stage. A scorer that cannot be loaded, or that fails at a clip, costs the units that it
fails at: they are named with the scorer and tried again by the next call. The other stages go on.
"""

import functools
import json
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np

from ...config.curate_score import SCORER, ScorerConfig
from ...errors import DataError, LavieError
from ..pictures import look_at_clips, midpoints
from ..stage import STAGES, Done, Stage, find_stage
from ..unit import Unit

RESERVED = ("unit", "number", "keep", "dropped_by", "mean_rank", "short_side", "aspect")
"""Names that selections, rules and views give to columns of their own."""
GROUP = "lavie.scorers"
"""The group of entry points."""

Scorer = Callable[[np.ndarray, Mapping[str, Any]], Mapping[str, float | None]]
"""Takes pictures of a clip, uint8 (n, H, W, 3), RGB, and its columns of `cut`; returns a number for each of its own
columns, None where there is none to give. The same clip has the same numbers every time."""


class ScorerFactory(Protocol):
    """What an entry point names."""

    columns: tuple[str, ...]
    """The names of its columns, all of floating point: lower-case letters, digits and _."""
    frames: int
    """The middle of each of so many equal parts of a clip is shown to it. Default: 8."""
    version: int
    """To be raised when the same options come to give other numbers. Default: 1."""
    gpu: bool
    """Whether it wants a GPU. Default: False."""

    def __call__(self, **options: Any) -> Scorer:
        """Return the scorer that is made with options."""


def installed_scorers() -> dict[str, EntryPoint]:
    """Return the entry points of the installed scorers by name; of two of one name, the first by its value."""
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value), reverse=True)
    return {point.name: point for point in points}


def plugin_stage(name: str) -> Stage:
    """Return the stage of a scorer; if that cannot be loaded, one whose units all fail with the reason."""
    try:
        factory, columns = _load(name)
        version, gpu = int(getattr(factory, "version", 1)), bool(getattr(factory, "gpu", False))
    except Exception as error:  # whatever the package raises when it is imported
        reason = f"scorer {name} cannot be loaded: {type(error).__name__}: {error}"

        def fail(unit: Unit, config: ScorerConfig) -> Done:
            """Say why nothing can be scored."""
            raise DataError(reason)

        return Stage(f"{SCORER}{name}", 0, ("cut",), ScorerConfig, {"clip": "string"}, work=fail)

    def work(unit: Unit, config: ScorerConfig) -> Done:
        """Score the clips of a unit."""
        return _score(unit, config, name, factory, columns)

    types = {"clip": "string"} | dict.fromkeys(columns, "float")
    return Stage(f"{SCORER}{name}", version, ("cut",), ScorerConfig, types, work=work, gpu=gpu)


def _load(name: str) -> tuple[Any, tuple[str, ...]]:
    """Return what the entry point of a scorer names, and its columns.

    Raises:
        DataError: there is none, or its columns are none.
        Exception: whatever the import raises.
    """
    installed = installed_scorers()
    if name not in installed:
        raise DataError(f"no package here offers it by an entry point of {GROUP}")
    factory = installed[name].load()
    columns = getattr(factory, "columns", None)
    names = tuple(columns) if isinstance(columns, (tuple, list)) else ()
    fine = all(isinstance(name, str) and name.isidentifier() and name == name.lower() for name in names)
    if not names or not fine or len(set(names)) < len(names):
        raise DataError(f"its `columns` are {columns!r}: wanted names of lower-case letters, digits and _")
    others = [*(column for stage in STAGES for column in find_stage(stage).columns), *RESERVED]
    if taken := [column for column in others if column in names]:
        raise DataError(f"its column {taken[0]} is taken already: wanted names of its own")
    return factory, names


def _score(unit: Unit, config: ScorerConfig, name: str, factory: Any, columns: tuple[str, ...]) -> Done:
    """Score the clips of a unit; one that cannot be decoded is refused by name, and its columns are null.

    Raises:
        DataError: the scorer failed; the message names it and the clip.
    """
    try:
        scorer = _made(name, factory, json.dumps(config.options, sort_keys=True))
    except Exception as error:
        raise DataError(f"scorer {name} cannot be made: {type(error).__name__}: {error}") from error
    parts = int(getattr(factory, "frames", 8))
    values: dict[str, list[Any]] = {column: [] for column in ("clip", *columns)}
    rejected = []
    for look in look_at_clips(unit, lambda frames: midpoints(frames, parts)):
        values["clip"].append(look.row["clip"])
        found: Mapping[str, float | None] = dict.fromkeys(columns)
        if look.pictures is None:
            assert look.rejected is not None
            rejected.append(look.rejected)
        else:
            try:
                found = _checked(scorer(look.pictures, look.row), columns)
            except Exception as error:
                where = f"clip {look.row['clip']} of {look.row['film']}"
                raise DataError(f"scorer {name} failed at {where}: {type(error).__name__}: {error}") from error
        for column in columns:
            values[column].append(found[column])
    return Done(values, rejected)


def _checked(found: Any, columns: tuple[str, ...]) -> dict[str, float | None]:
    """Return what a scorer gave as plain numbers.

    Raises:
        LavieError: it is not a number for each of the columns.
    """
    if not isinstance(found, Mapping) or set(found) != set(columns):
        got = sorted(found) if isinstance(found, Mapping) else type(found).__name__
        raise LavieError(f"it gave {got}: wanted a number for each of {', '.join(columns)}")
    return {column: None if found[column] is None else float(found[column]) for column in columns}


@functools.lru_cache(maxsize=1)
def _made(name: str, factory: Any, options: str) -> Scorer:
    """Return a scorer that is made with options, as JSON; the last one is kept for the next unit."""
    return factory(**json.loads(options))
