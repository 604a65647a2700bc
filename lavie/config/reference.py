"""`python -m lavie.config.reference` prints docs/configuration.md: every key of runs and curations, from the types.

Names, types and defaults are those of the classes; what a key means is the string below its field in the source.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic_core import PydanticUndefined, to_jsonable_python

from .add_difference import AddDifferenceConfig
from .base import Strict
from .condition import GivenConfig
from .curate import CurateConfig
from .curate_caption import AlignConfig, CaptionConfig
from .curate_cut import CutConfig
from .curate_dedup import DedupConfig
from .curate_engine import EngineConfig
from .curate_quality import QualityConfig
from .curate_score import ClipConfig, ScorerConfig, TextConfig
from .curate_select import Rule, SelectConfig
from .curate_shards import ShardsConfig
from .data import BucketConfig, DatasetConfig, DegradationConfig, Weight
from .evaluation import EvalConfig
from .lora import LoraConfig
from .model import AutoencoderConfig, TextEncoderConfig, UNetConfig
from .profile import ProfileConfig
from .train import DataConfig, SamplingConfig, TimestepSampling, TrainConfig
from .watchdog import WatchdogConfig

SECTIONS: tuple[tuple[str, type[Strict]], ...] = (
    ("The run", TrainConfig),
    ("`model`", UNetConfig),
    ("`autoencoder`", AutoencoderConfig),
    ("`text_encoder`", TextEncoderConfig),
    ("`lora`", LoraConfig),
    ("`data`", DataConfig),
    ("An entry of `data.train`", DatasetConfig),
    ("An entry of `data.buckets`", BucketConfig),
    ("`sampling`", SamplingConfig),
    ("`eval`", EvalConfig),
    ("`watchdog`", WatchdogConfig),
    ("`profile`", ProfileConfig),
    ("`timestep_sampling`", TimestepSampling),
    ("`add_difference`", AddDifferenceConfig),
    ("`degradation`", DegradationConfig),
    ("`given`", GivenConfig),
)
"""The tables of a run, in their order: heading and type."""
CURATION: tuple[tuple[str, type[Strict]], ...] = (
    ("All sections", CurateConfig),
    ("`engine`", EngineConfig),
    ("`cut`", CutConfig),
    ("`text`", TextConfig),
    ("`clip`", ClipConfig),
    ("An entry of `scorers`", ScorerConfig),
    ("`dedup`", DedupConfig),
    ("`caption`", CaptionConfig),
    ("`align`", AlignConfig),
    ("`select`", SelectConfig),
    ("An entry of `select.rules`", Rule),
    ("`quality`", QualityConfig),
    ("`shards`", ShardsConfig),
)
"""The tables of a curation, likewise."""

OPENING = """\
# Configuration reference

Every key of a run's YAML, with its type, its default and what it means. Keys of a section are written below it, or as
`section.key=value` on the command line; an unknown key is an error that names the nearest valid one. A list is written
as `[a, b]`, "no value" as `null`. A key of text takes what is typed as it stands, `#` and `=` included; quotes keep a
word such as `null` a text, and in a list they keep commas and `#`. In paths a leading `~` is the home folder.

The settings of `lavie curate` stand at the end: [A curation](#a-curation). This page is printed by
`python -m lavie.config.reference`, from the types in `lavie/config/`.
"""
OF_CURATION = """\
# A curation

The settings of `lavie curate` ([curation.md](curation.md)): a YAML for `--config`, or `section.key=value` behind the
folders of a command. What was last used lies in OUT/curate.yaml, and the next command starts from it. `scan`, `motion`
and `hash` have no keys.
"""

NAMES = {int: "integer", float: "number", bool: "true or false", str: "text", NoneType: "null", Any: "value"}
SIGNS = (
    (Ge, "ge", ">="),
    (Gt, "gt", ">"),
    (Le, "le", "<="),
    (Lt, "lt", "<"),
    (MultipleOf, "multiple_of", "a multiple of"),
)
"""Constraints of a field, each with its attribute and how it is written."""
WEIGHT = get_args(Weight)[0]


def main() -> None:
    """Print the reference."""
    print(render(), end="")


def render() -> str:
    """Return the reference as Markdown: a heading, the class's docstring and a table for each section."""
    return "\n".join([OPENING, *_tables(SECTIONS), OF_CURATION, *_tables(CURATION)])


def _tables(sections: Iterable[tuple[str, type[Strict]]]) -> list[str]:
    """Return what is printed of some sections."""
    parts = []
    for heading, model in sections:
        summary = " ".join(inspect.cleandoc(model.__doc__ or "").split())
        rows = ["| key | type | default | meaning |", "|---|---|---|---|", *map(_row, _keys(model))]
        parts.append(f"## {heading}\n\n{summary}\n\n" + "\n".join(rows) + "\n")
    return parts


def field_docs(model: type[Strict]) -> dict[str, str]:
    """Return the string below each field of a section in its source, as one line, by the field's name."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[field.target.id] = " ".join(str(below.value.value).split())
    return docs


def type_name(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Return the type of a key in words, with the range that its metadata gives."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation == WEIGHT:
        return "number >= 0, or [[step, number], ...]"
    if origin is Annotated:
        return type_name(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        return " or ".join(type_name(argument, metadata) for argument in arguments)
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is dict:
        return f"{type_name(arguments[1])} by name"
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {type_name(arguments[0])}"
        return f"[{', '.join(type_name(argument) for argument in arguments)}]"
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        entries: dict[type[Strict], str] = {
            DatasetConfig: "dataset",
            BucketConfig: "bucket",
            Rule: "rule",
            ScorerConfig: "scorer",
        }
        return entries.get(annotation, "section")
    return NAMES[annotation] + (_range(metadata) if annotation in (int, float) else "")


def _range(metadata: tuple[Any, ...]) -> str:
    """Return the bounds in a field's metadata, as " >= 1 and <= 10", or nothing."""
    constraints: list[Any] = []
    for constraint in metadata:
        # pydantic's Field keeps constraints in a list of its own where it stands inside Annotated.
        constraints += getattr(constraint, "metadata", None) or [constraint]
    bounds = []
    for constraint in constraints:
        for kind, attribute, sign in SIGNS:
            if isinstance(constraint, kind):
                bounds.append(f"{sign} {getattr(constraint, attribute)}")
    return " " + " and ".join(bounds) if bounds else ""


def _keys(model: type[Strict]) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, default and meaning of every key of a section."""
    docs = field_docs(model)
    for name, meaning in model.input_keys.items():
        yield name, "text", "none", meaning
    for name, field in model.model_fields.items():
        if field.is_required():
            default = "required"
        elif isinstance(field.default, Strict):
            default = "its own defaults"
        else:
            value = field.get_default(call_default_factory=True)
            assert value is not PydanticUndefined
            default = f"`{json.dumps(to_jsonable_python(value))}`"
        yield name, type_name(field.annotation, tuple(field.metadata)), default, docs[name]


def _row(cells: tuple[str, str, str, str]) -> str:
    """Return a line of a Markdown table, with the key in code."""
    name, *descriptions = (cell.replace("|", "\\|") for cell in cells)
    return f"| `{name}` | {' | '.join(descriptions)} |"


if __name__ == "__main__":
    main()
