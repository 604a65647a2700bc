"""What there is to tell of a curation's captions: how many there are, why others are not, and which are too long."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ...caption_limit import clip_words
from ..films import read_films
from ..stage import made
from ..table import arrow, read_rejected, rejected_path
from ..unit import units_of


@dataclass(frozen=True)
class ToldCaptions:
    """Numbers of clips in the units whose captions are done."""

    clips: int
    captioned: int
    dropped: int
    """Clips that the rules over earlier columns drop, so that nobody was asked."""
    refused: dict[str, int]
    """Clips that were to have a caption and got none, by the reason."""
    long: int
    """Captions that CLIP does not read whole, counted in words; it may cut others too."""
    rule: str
    """The words for these."""


def told_captions(out: Path) -> ToldCaptions:
    """Return what there is to tell of the captions of a curation."""
    compute, limit, refused = arrow().compute, clip_words(), Counter[str]()
    clips = captioned = long = 0
    for unit in units_of(out, read_films(out)):
        if made(out, "caption", unit.name) is None:
            continue
        words = unit.read("caption", ["words"])["words"]
        clips, captioned = clips + len(words), captioned + len(words) - words.null_count
        long += compute.sum(compute.greater(words, limit.most)).as_py() or 0
        refused.update(item.reason for item in read_rejected(rejected_path(out, "caption", unit.name)))
    dropped = clips - captioned - refused.total()
    return ToldCaptions(clips, captioned, dropped, dict(sorted(refused.items())), long, limit.rule)
