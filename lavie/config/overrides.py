"""Changes of a run on the command line: key=value, --key=value or --key value, anywhere beside the config."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from ..errors import ConfigError
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


def split_command_line(
    words: Sequence[str], model: type[BaseModel], options: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the plain words of a command line, such as paths, and its overrides as key=value, each in their order.

    Args:
        words: what is left of the command line when the command's own options are taken out.
        model: the section whose keys `--key value` may name.
        options: the command's own options, as "--dry-run", to name one that a typing error may mean.

    Raises:
        ConfigError: an unknown `--key`, or one without a value.
    """
    plain: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            (overrides if re.match(r"[A-Za-z_][\w.-]*=|=", word) else plain).append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        known = known_keys(model)
        if key not in known:
            raise ConfigError(f"unknown option --{name}; {_nearest(key, known, options)}")
        if not equals:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise ConfigError(f"--{name} has no value: wanted --{name} VALUE, or {key}=VALUE")
            value = following
        overrides.append(f"{key}={value}")
    return plain, overrides


def _nearest(key: str, known: Sequence[str], options: Sequence[str]) -> str:
    """Return the end of a message about an unknown option: the nearest one, or where all are listed."""
    flags = {option.removeprefix("--").replace("-", "_"): option for option in options}
    names = {name: f"--{name}" for name in known} | {name.rpartition(".")[2]: f"--{name}" for name in known} | flags
    near = difflib.get_close_matches(key, list(names), n=1)
    if near:
        return f"did you mean {names[near[0]]}?"
    return "--help lists the options, `lavie config keys` the keys of a run"
