"""The stages that a curation goes through with given settings."""

from ..config.curate import CurateConfig
from .caption.choice import check_captioner
from .cut.splitters.choice import find_splitter
from .score.choice import wanted_scores
from .stage import STAGES


def wanted_stages(config: CurateConfig) -> list[str]:
    """Return the names of the stages up to the selection, in their order.

    Those that need nothing are always among them; `text`, `clip` and scorers of other packages where the settings ask
    for them; `caption` with a captioner, and `align` with a CLIP too.

    Raises:
        ConfigError: what a wanted stage needs is missing.
    """
    find_splitter(config.cut.splitter)
    scores = wanted_scores(config)
    captions = config.caption.captioner is not None
    if captions:
        check_captioner(config.caption)
    optional = {
        "text": "text" in scores,
        "clip": "clip" in scores,
        "caption": captions,
        "align": captions and config.clip.model is not None,
    }
    names = [name for name in STAGES if optional.get(name, True)]
    behind = names.index("dedup")
    return [*names[:behind], *(name for name in scores if name not in names), *names[behind:]]
