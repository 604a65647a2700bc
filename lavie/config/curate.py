"""The settings of a curation: one section for each step, one YAML file for all."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import replacing
from .base import Strict
from .curate_engine import EngineConfig
from .curate_quality import QualityConfig
from .curate_scan import ScanConfig
from .curate_select import SelectConfig
from .curate_shards import ShardsConfig
from .load import dump_yaml, read_yaml, validate
from .overrides import merge, parse_overrides

KEPT = "curate.yaml"
"""The file in OUT with the settings that were last used."""


class CurateConfig(Strict):
    """All settings of a curation."""

    engine: EngineConfig = EngineConfig()
    """Where the work is done."""
    scan: ScanConfig = ScanConfig()
    """What is measured of every frame."""
    select: SelectConfig = SelectConfig()
    """Which clips are kept."""
    quality: QualityConfig = QualityConfig()
    """Which of these are the best."""
    shards: ShardsConfig = ShardsConfig()
    """How the selected clips are written for training."""


def stage_config(config: CurateConfig, stage: str) -> Strict:
    """Return all settings that decide the columns of a stage."""
    section: Strict = getattr(config, stage)
    return section


def load_curate(
    out: Path, config: Path | None = None, overrides: Iterable[str] = (), changes: Mapping[str, Any] | None = None
) -> CurateConfig:
    """Return the settings of a curation.

    They are those of a YAML file if one is given, and those last used in OUT if not; laid over by `key=value` changes
    and by the options of a command.

    Args:
        out: the folder of the curation.
        config: the YAML file; what it does not name has its default.
        overrides: each as "engine.workers=2".
        changes: sections with values; None stands for an option that was not given.

    Raises:
        ConfigError: keys are unknown or out of range; the message names each of them.
    """
    overrides, kept = list(overrides), out / KEPT
    path = config or (kept if kept.is_file() else None)
    values = merge(
        read_yaml(path, CurateConfig, may_be_empty=True) if path else {}, parse_overrides(overrides, CurateConfig)
    )
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
