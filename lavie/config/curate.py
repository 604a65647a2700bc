"""The settings of a curation: one section for each step, one YAML file for all."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ..files import write_if_new
from .base import Strict
from .curate_caption import AlignConfig, AlignWork, CaptionConfig, CaptionWork
from .curate_cut import CutConfig
from .curate_dedup import DedupConfig
from .curate_engine import EngineConfig
from .curate_quality import QualityConfig
from .curate_scan import ScanConfig
from .curate_score import SCORER, ClipConfig, HashConfig, MotionConfig, ScorerConfig, TextConfig
from .curate_select import OF_CAPTIONS, Rule, SelectConfig
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
    cut: CutConfig = CutConfig()
    """Where films are cut, and what becomes a clip."""
    motion: MotionConfig = MotionConfig()
    """What is gathered of that for each clip."""
    hash: HashConfig = HashConfig()
    """What tells duplicates and overlays."""
    text: TextConfig = TextConfig()
    """Text in the picture."""
    clip: ClipConfig = ClipConfig()
    """Embeddings and aesthetic ratings."""
    scorers: dict[str, ScorerConfig] = Field(default_factory=dict)
    """Scorers of other packages that are run, by name."""
    dedup: DedupConfig = DedupConfig()
    """Which clips count as duplicates."""
    caption: CaptionConfig = CaptionConfig()
    """Who writes the captions."""
    align: AlignConfig = AlignConfig()
    """How well they fit."""
    select: SelectConfig = SelectConfig()
    """Which clips are kept."""
    quality: QualityConfig = QualityConfig()
    """Which of these are the best."""
    shards: ShardsConfig = ShardsConfig()
    """How the selected clips are written for training."""

    @model_validator(mode="after")
    def _check(self) -> "CurateConfig":
        """Check that what is compared is made."""
        if self.dedup.similar is not None and not self.clip.model:
            raise ValueError("dedup.similar compares embeddings: set clip.model, or dedup.similar to null")
        if self.dedup.aesthetic and not self.clip.head:
            raise ValueError("dedup.aesthetic compares ratings: set clip.head, or dedup.aesthetic to null")
        return self


def stage_config(config: CurateConfig, stage: str) -> Strict:
    """Return all settings that decide the columns of a stage; of a scorer's, `score-NAME`, as of any other."""
    if stage.startswith(SCORER):
        return config.scorers.get(stage.removeprefix(SCORER), ScorerConfig())
    if stage == "dedup" and config.dedup.aesthetic is None:
        return config.dedup.model_copy(update={"aesthetic": config.clip.head is not None})
    if stage == "caption":
        return CaptionWork(caption=config.caption, rules=rules_before_captions(config))
    if stage == "align":
        return AlignWork(model=config.clip.model, tokenizer=config.align.tokenizer)
    section: Strict = getattr(config, stage)
    return section


def rules_before_captions(config: CurateConfig) -> tuple[Rule, ...]:
    """Return the rules that decide which clips are captioned: those that say nothing of captions.

    Of the default ones, a rule is left out whose column these settings do not make.
    """
    unmade = set()
    if config.select.rules is None:
        unmade |= set() if config.text.ocr else {"text_area"}
        unmade |= set() if config.clip.head else {"aesthetic_mean"}
    return tuple(rule for rule in config.select.chosen if rule.column not in {*OF_CAPTIONS, *unmade})


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
    write_if_new(out / KEPT, dump_yaml(config.model_copy(update={"engine": EngineConfig()})))
