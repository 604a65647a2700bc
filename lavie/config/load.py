"""Reading a run's configuration: a YAML file and dotted overrides become a TrainConfig, which can be dumped as YAML.

Unknown keys are errors that name the nearest valid key.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import ConfigError
from .base import Strict
from .explain import explain, shown
from .overrides import merge, parse_overrides
from .train import TrainConfig
from .yaml_values import one_line, read_document


def read_yaml(path: str | Path, model: type[Strict] = TrainConfig, *, may_be_empty: bool = False) -> dict[str, Any]:
    """Return the keys and values of a YAML file, read by the types of a configuration but not checked by them.

    Args:
        path: the file.
        model: the type of the configuration.
        may_be_empty: whether a file without content stands for no keys.

    Raises:
        ConfigError: the file cannot be read, is no YAML, holds no mapping, or has a key twice.
    """
    try:
        content = read_document(Path(path).read_text(encoding="utf-8"), model)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path}: no YAML: {one_line(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"config {path}: {error}") from None
    if content is None and may_be_empty:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config {path}: wanted a mapping of keys, got {shown(content)[:60]}")
    return content


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Return the run that the YAML file `path` describes, with `key=value` overrides.

    Raises:
        ConfigError: keys are unknown, missing or out of range; the message names each of them.
    """
    overrides = list(overrides)
    source = f"{path} with {' '.join(overrides)}" if overrides else str(path)
    return validate(TrainConfig, merge(read_yaml(path), parse_overrides(overrides, TrainConfig)), source)


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
        raise ConfigError("\n".join(f"{source}: {line}" for line in explain(model, error))) from None


def dump_yaml(config: Strict) -> str:
    """Return the resolved configuration as YAML that `load_config` reads."""
    # Characters beyond ASCII are escaped, as not all of them survive YAML.
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
