"""What a stage of the curation is, the list of them, and which of a unit's columns are out of date."""

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.base import Strict
from ..config.curate_score import SCORER
from ..data.shards.index_file import Rejected
from .films import films_hash, texts_hash
from .table import Made, columns_path, read_made, side_path, text_hash

if TYPE_CHECKING:
    import pyarrow as pa

    from .unit import Unit

FILMS = "films"
"""What a stage reads that reads the list of films."""
TEXTS = "texts"
"""What a stage reads that reads the texts beside the films."""


@dataclass
class Done:
    """What a stage made of one unit; files beside the columns lie where `Unit.partial` said."""

    columns: "pa.Table | Mapping[str, Sequence[Any]]"
    """The values of `Stage.columns`, and `clip` first where the stage reads `cut`: all rows of it, in its order."""
    rejected: list[Rejected] = field(default_factory=list)
    """What was refused: the name of the film or clip, the reason in the words of its class, and the details."""


def _all_settings(config: Strict) -> dict[str, Any]:
    """Return all settings, as JSON can hold them."""
    return config.model_dump(mode="json")


@dataclass(frozen=True)
class Stage:
    """A step that makes columns: a pure function of one unit's films or earlier columns, and of its settings."""

    name: str
    """The folder of its columns."""
    version: int
    """To be raised when the same settings come to give other values."""
    reads: "tuple[str, ...] | Callable[[Any], tuple[str, ...]]"
    """The stages whose columns, or files beside them, of the same unit it reads; "films" for the films themselves,
    "texts" for the texts beside them. A function of the settings where these decide which stages are read."""
    config: type[Strict]
    """The type of its settings."""
    columns: Mapping[str, str]
    """The names and types of its columns, as `table.arrow_type` reads them."""
    work: "Callable[[Unit, Any], Done] | None" = None
    """What makes the columns of one unit. It writes nothing but what `Unit.partial` gives."""
    whole: "Callable[[Sequence[Unit], Any], Iterator[tuple[Unit, Done]]] | None" = None
    """What makes the columns of all units at once, in place of `work`; for a stage that compares clips of all films."""
    identity: Callable[[Any], dict[str, Any]] = _all_settings
    """What of the settings decides the values. A stage that reads a file puts its hash in place of its name."""
    side: tuple[str, ...] = ()
    """The kinds of files, of `table.SIDE`, that it writes beside the columns: without one, a unit is not done."""
    gpu: bool = False
    """Whether it runs a network that wants a GPU where there is one."""

    def sources(self, config: Strict) -> tuple[str, ...]:
        """Return the stages that it reads with these settings, as `reads` says."""
        return self.reads(config) if callable(self.reads) else self.reads


STAGES: dict[str, str] = {
    "scan": "lavie.curation.scan.stage:SCAN",
    "cut": "lavie.curation.cut.stage:CUT",
    "motion": "lavie.curation.score.motion:MOTION",
    "hash": "lavie.curation.score.hash:HASH",
    "text": "lavie.curation.score.text:TEXT",
    "clip": "lavie.curation.score.clip:CLIP",
    "dedup": "lavie.curation.dedup.stage:DEDUP",
    "caption": "lavie.curation.caption.stage:CAPTION",
    "align": "lavie.curation.align.stage:ALIGN",
}
"""The stages in their order, each with the place of its `Stage`, which is imported when it is needed."""
COMMANDS = {"motion": "score", "hash": "score", "text": "score --ocr", "clip": "score --clip PATH --head PATH"}
"""Where a stage is no command of its own, what follows `lavie curate` to have it done."""


def command_of(name: str) -> str:
    """Return the command that has a stage done, without OUT."""
    scorer = f"score --scorer {name.removeprefix(SCORER)}" if name.startswith(SCORER) else name
    return f"lavie curate {COMMANDS.get(name, scorer)}"


@functools.cache
def find_stage(name: str) -> Stage:
    """Return a stage by its name in STAGES, by that of a scorer, as "score-NAME", or by its place, as "module:NAME"."""
    if name.startswith(SCORER):
        from .score.plugins import plugin_stage

        return plugin_stage(name.removeprefix(SCORER))
    module, _, attribute = STAGES.get(name, name).partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Standing:
    """What the columns of one unit would be made of now, beside what they were made of."""

    unit: "Unit"
    wanted: Made | None
    """None while one of the stages that are read is not done."""
    made: Made | None
    """None where there are no columns."""

    @property
    def done(self) -> bool:
        """Whether the columns are there and would be made of the same now."""
        return self.wanted is not None and self.wanted.of_the_same(self.made)


def standings(stage: Stage, config: Strict, units: "Sequence[Unit]") -> list[Standing]:
    """Return how a stage stands with each of some units; with all units, for a stage of the whole."""
    identity = stage.identity(config)

    def wanted(*read: "Unit") -> Made | None:
        """Return what columns made of some units would be made of."""
        inputs = {}
        for name in stage.sources(config):
            hashes = [(unit.name, _hash(name, unit)) for unit in read]
            if any(found is None for _, found in hashes):
                return None
            inputs[name] = text_hash(hashes) if stage.whole else str(hashes[0][1])
        return Made(stage.name, stage.version, identity, inputs)

    def whole(unit: "Unit") -> Made | None:
        """Return what the columns of a unit were made of, None where they or a file beside them are missing."""
        there = all(side_path(unit.out, kind, unit.name).is_file() for kind in stage.side)
        return made(unit.out, stage.name, unit.name) if there else None

    of_all = wanted(*units) if stage.whole else None
    return [Standing(unit, of_all if stage.whole else wanted(unit), whole(unit)) for unit in units]


def lacking(stage: Stage, config: Strict, units: "Sequence[Unit]") -> tuple[str, ...]:
    """Return the stages that a stage reads and that some of the units lack, in their order."""
    return tuple(name for name in stage.sources(config) if any(_hash(name, unit) is None for unit in units))


def made(out: Path, stage: str, unit: str) -> Made | None:
    """Return what a unit's columns of a stage were made of; None where there are none."""
    return read_made(columns_path(out, stage, unit))


def _hash(name: str, unit: "Unit") -> str | None:
    """Return the hash of what a stage reads of one unit."""
    if name == FILMS:
        return films_hash(unit.films)
    if name == TEXTS:
        return texts_hash(unit.src, unit.films)
    found = made(unit.out, name, unit.name)
    return None if found is None else found.content
