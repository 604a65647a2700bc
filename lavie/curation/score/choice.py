"""Which scores a user wants, and whether what they need is there: looked at before any work begins."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ...config.curate import CurateConfig
from ...config.curate_score import SCORER
from ...errors import ConfigError
from .plugins import GROUP, installed_scorers

ALWAYS = ("motion", "hash")
"""The stages that need nothing beyond `lavie[curate]`."""


def wanted_scores(config: CurateConfig, only: Sequence[str] = ()) -> list[str]:
    """Return the names of the stages that score clips, in their order.

    Args:
        config: the settings. `text` is wanted if text.ocr is set, `clip` if clip.model is, and each of `scorers`.
        only: names of such stages, or of scorers, if not all are wanted.

    Raises:
        ConfigError: a name of `only` is none of them, or what a stage needs is missing.
    """
    scorers = [f"{SCORER}{name}" for name in config.scorers]
    optional = {"text": config.text.ocr, "clip": config.clip.model is not None}
    wanted = [*ALWAYS, *(name for name, is_wanted in optional.items() if is_wanted), *scorers]
    if only:
        named = {f"{SCORER}{name}" if f"{SCORER}{name}" in scorers else name for name in only}
        for name in sorted(named - set(wanted)):
            how = {"text": ": add --ocr", "clip": ": add --clip PATH"}.get(name, "")
            raise ConfigError(f"--only {name}: wanted one of {', '.join(wanted)}{how}")
        wanted = [name for name in wanted if name in named]
    for name in wanted:
        _check(name, config)
    return wanted


def _check(name: str, config: CurateConfig) -> None:
    """Raise ConfigError if what a stage needs is not there."""
    if name == "text" and not (find_spec("rapidocr") and find_spec("onnxruntime")):
        raise ConfigError("text in pictures (--ocr) needs RapidOCR: pip install 'lavie[ocr]'")
    if name == "clip":
        for key, flag, path in (("model", "clip", config.clip.model), ("head", "head", config.clip.head)):
            if path is not None and not Path(path).exists():
                raise ConfigError(f"clip.{key} (--{flag}) {path}: no such file or folder")
    if name.startswith(SCORER) and (scorer := name.removeprefix(SCORER)) not in (installed := installed_scorers()):
        known = ", ".join(installed) or "there is none"
        raise ConfigError(f"scorers.{scorer} (--scorer): not among the entry points of {GROUP}: {known}")
