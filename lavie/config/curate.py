"""The settings of a curation: one section for each step, one YAML file for all (`lavie curate run`)."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError
from ..files import replacing
from .base import Strict
from .curate_cut import CutConfig
from .curate_engine import EngineConfig
from .curate_scan import ScanConfig
from .explain import shown
from .load import dump_yaml, validate
from .overrides import merge, parse_overrides
from .yaml_values import one_line, read_document

KEPT = "curate.yaml"
"""The file in OUT with the settings that were last used."""


class CurateConfig(Strict):
    """All settings of a curation."""

    engine: EngineConfig = EngineConfig()
    """Where the work is done."""
    scan: ScanConfig = ScanConfig()
    """What is measured of every frame."""
    cut: CutConfig = CutConfig()
    """Where films are cut into clips."""


def read_curate(path: Path) -> dict[str, Any]:
    """Return the keys and values of a curation's YAML file, read by their types but not checked by them.

    Raises:
        ConfigError: the file cannot be read, is no YAML, holds no mapping, or has a key twice.
    """
    try:
        content = read_document(path.read_text(encoding="utf-8"), CurateConfig)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path}: no YAML: {one_line(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"config {path}: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config {path}: wanted a mapping of keys, got {shown(content)[:60]}")
    return content


def load_curate(
    out: Path, config: Path | None = None, overrides: Iterable[str] = (), changes: Mapping[str, Any] | None = None
) -> CurateConfig:
    """Return the settings of a curation.

    They are those of a YAML file if one is given, and those last used in OUT if not; laid over by `key=value` changes
    and by the options of a command.

    Args:
        out: the folder of the curation.
        config: the YAML file; what it does not name has its default.
        overrides: each as "cut.splitter=sharp".
        changes: sections with values; None stands for an option that was not given.

    Raises:
        ConfigError: keys are unknown or out of range; the message names each of them.
    """
    overrides, kept = list(overrides), out / KEPT
    path = config or (kept if kept.is_file() else None)
    values = merge(read_curate(path) if path else {}, parse_overrides(overrides, CurateConfig))
    for section, given in (changes or {}).items():
        values = merge(values, {section: {key: value for key, value in given.items() if value is not None}})
    source = " with ".join(filter(None, (str(path or ""), " ".join(overrides)))) or "the command line"
    return validate(CurateConfig, values, source)


def keep(out: Path, config: CurateConfig) -> None:
    """Write the settings into OUT, but not where the work was done: the next command may be called elsewhere."""
    text = dump_yaml(config.model_copy(update={"engine": EngineConfig()}))
    path = out / KEPT
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
