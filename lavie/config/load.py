"""Reading a run's configuration: a YAML file and dotted overrides become a TrainConfig, which can be dumped as YAML.

Unknown keys are errors that name the nearest valid key.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import ConfigError
from .base import Strict
from .train import TrainConfig


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Return overrides such as `["data.height=64", "seed=1"]` as a nested dict.

    Values are YAML: `null`, `true`, `[a, b]`, numbers, strings.

    Raises:
        ConfigError: an override is no key=value, its value no YAML, or its key lies below another one's value.
    """
    tree: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"override {text!r}: wanted key=value, as in learning_rate=1e-5 or data.height=256")
        node = tree
        *parents, leaf = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"override {text!r}: {parent} was given the value {node!r} before: drop one of the two"
                )
        try:
            node[leaf] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {text!r}: its value is no YAML: {_one_line(error)}") from None
    return tree


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the leaves of `change` laid over it; neither of the two changes."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; ConfigError if there is none."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path}: no YAML: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"config {path}: wanted a mapping of keys, got {type(content).__name__}")
    return content


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Return the run that the YAML file `path` describes, with `key=value` overrides.

    Raises:
        ConfigError: keys are unknown, missing or out of range; the message names each of them.
    """
    overrides = list(overrides)
    source = f"{path} with {' '.join(overrides)}" if overrides else str(path)
    return validate(TrainConfig, merge(read_yaml(path), parse_overrides(overrides)), source)


def validate(model: type[Strict], values: Mapping[str, Any], source: str) -> Any:
    """Return plain values as a section of the configuration, checked by its type.

    Args:
        model: the type of the section.
        values: what was read.
        source: where it was read, for messages.

    Raises:
        ConfigError: keys are faulty; the message names each of them, a line each.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {_explain(model, e)}" for e in error.errors())) from None


def dump_yaml(config: Strict) -> str:
    """Return the resolved configuration as YAML that `load_config` reads."""
    # Characters beyond ASCII are escaped, as not all of them survive YAML.
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _one_line(error: Exception) -> str:
    """Return an error's message without its line breaks."""
    return " ".join(str(error).split())


def _explain(model: type[Strict], error: Any) -> str:
    """Return what is wrong with one key, from an entry of pydantic's ValidationError.errors()."""
    place = [p for p in error["loc"] if isinstance(p, (str, int))]
    name = ".".join(map(str, place))
    if error["type"] == "extra_forbidden":
        known = _keys(model)
        near = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(str(place[-1]), known, n=1)
        top = ", ".join(key for key in known if "." not in key)
        return f"unknown key {name}; " + (f"did you mean {near[0]}?" if near else f"valid keys: {top}")
    if error["type"] == "missing":
        return f"key {name} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "tuple_type":  # YAML has lists
        message = "wanted a list, as [a, b]"
    if not name:
        return message
    # A ValueError of ours has named what was got; pydantic's own messages have not.
    return f"{name}: {message}" if error["type"] == "value_error" else f"{name}: {message} (got {error['input']!r})"


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all keys of a section and of the sections in it."""
    names = [prefix + name for name in model.input_keys] if issubclass(model, Strict) else []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _keys(field.annotation, prefix + name + ".")
    return names
