"""Changes of a run on the command line: key=value, --key=value or --key value, anywhere beside the config."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..errors import ConfigError
from .train import TrainConfig
from .types import key_type, known_keys, section
from .yaml_values import read_value


def parse_overrides(overrides: Iterable[str], model: type[BaseModel]) -> dict[str, Any]:
    """Return overrides such as `["data.height=64", "seed=1"]` as a nested dict.

    Args:
        overrides: each as key=value. The value is read by the key's type: see lavie/config/yaml_values.py.
        model: the section whose keys they name.

    Raises:
        ConfigError: an override is no key=value, its value cannot be read, or its key lies below another one's value.
    """
    tree: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"override {text!r}: wanted key=value without spaces around the =, as in learning_rate=1e-5 or "
                "data.height=256"
            )
        node, at = tree, model
        *parents, leaf = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            at = section(key_type(at, parent))  # type: ignore[assignment]
            if not isinstance(node, dict):
                raise ConfigError(
                    f"override {text!r}: {parent} was given the value {node!r} before: drop one of the two"
                )
        try:
            given = read_value(value, key_type(at, leaf), name)
        except ConfigError as error:
            raise ConfigError(f"override {text!r}: {error}") from None
        old = node.get(leaf)
        if isinstance(old, dict) and old and not isinstance(given, dict):
            raise ConfigError(f"override {text!r}: {name}.{next(iter(old))} was given before: drop one of the two")
        node[leaf] = merge(old, given) if isinstance(old, dict) and isinstance(given, dict) else given
    return tree


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the leaves of `change` laid over it; neither of the two changes."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result


@dataclass(frozen=True)
class CommandLine:
    """The words of a command line, each kind in its order."""

    plain: list[str]
    """Neither options nor overrides: paths."""
    overrides: list[str]
    """Each as key=value, however it was written."""
    own: list[str]
    """The command's own options, with their values."""


def split_command_line(
    words: Sequence[str], model: type[BaseModel], options: Mapping[str, bool] | None = None
) -> CommandLine:
    """Return the paths, the overrides and the own options of a command line, in whatever order they stand.

    Args:
        words: the command line.
        model: the section whose keys `--key value` may name.
        options: the command's own options, as "--dry-run", and whether each takes a value.

    Raises:
        ConfigError: an unknown option, or one without a value.
    """
    options = options or {}
    found = CommandLine([], [], [])
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            (found.overrides if re.match(r"[A-Za-z_][\w.-]*=|=", word) else found.plain).append(word)
            continue

        option, equals, value = word.partition("=")
        key = option.lstrip("-").replace("-", "_")
        if option not in options and key not in known_keys(model):
            raise ConfigError(f"unknown option {option}; {_nearest(key, known_keys(model), options)}")
        if not equals and options.get(option, True):
            following = next(rest, None)
            if following is None or following.startswith("--"):
                either = "" if option in options else f", or {key}=VALUE"
                raise ConfigError(f"{option} has no value: wanted {option} VALUE{either}")
            value = following
        if option not in options:
            found.overrides.append(f"{key}={value}")
        else:
            found.own.append(f"{option}={value}" if options[option] else word)
    return found


def read_run(
    words: Sequence[str], wanted: Sequence[str] = ("CONFIG",), *, optional: bool = False
) -> tuple[list[str], list[str]]:
    """Return the paths and the overrides among the words of a command that works on a run's config.

    Args:
        words: the command line without the command's own options.
        wanted: what the paths are, in their order.
        optional: whether they may be left out.

    Raises:
        ConfigError: as for `split_command_line`, or other paths than `wanted`.
    """
    line = split_command_line(words, TrainConfig)
    require_paths(line.plain, wanted, optional)
    return line.plain, line.overrides


def require_paths(plain: Sequence[str], wanted: Sequence[str], optional: bool = False) -> None:
    """Raise ConfigError unless the plain words of a command line are the paths that are wanted, or may be left out."""
    for word in plain:
        if word in known_keys(TrainConfig) and not Path(word).exists():
            raise ConfigError(f"override {word!r}: wanted key=value, as in {word}=..., or --{word} VALUE")
    if len(plain) == len(wanted) or (optional and not plain):
        return
    if "=" in plain:
        raise ConfigError("a word is '=': wanted key=value without spaces around the =")
    got = ", ".join(plain) if plain else "none"
    raise ConfigError(f"wanted {' and '.join(wanted)}, then key=value; got these paths: {got}")


def _nearest(key: str, known: Sequence[str], options: Iterable[str]) -> str:
    """Return the end of a message about an unknown option: the nearest one, or where all are listed."""
    flags = {option.removeprefix("--").replace("-", "_"): option for option in options}
    names = {name: f"--{name}" for name in known} | {name.rpartition(".")[2]: f"--{name}" for name in known} | flags
    near = difflib.get_close_matches(key, list(names), n=1)
    if near:
        return f"did you mean {names[near[0]]}?"
    return "--help lists the options, `lavie config keys` the keys of a run"
