"""Whether a run learnt the rendered set, the only one whose colours and directions the judge knows."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from ..config.train import TrainConfig
from ..data.prepare.synthetic import COLOURS, MOTIONS, SHAPES, clip_caption, image_caption
from ..data.shards.index import load_index
from ..errors import ConfigError, DataError

LOOKED_AT = 200
"""Captions of a dataset that are looked at, evenly spaced."""
MIN_SHARE = 0.5
"""The least share of captions of the rendered set: a run may mix a few others among them."""


def require_rendered(config: TrainConfig) -> None:
    """Refuse a run that was trained on captions which the judge cannot check.

    The captions are those of data.train, or of data.validation, where the shards are still there; else the validation
    prompts. Where there are none of these, as in an exported folder, nothing is refused.

    Raises:
        ConfigError: fewer than half of them are captions of the rendered set; the message shows one.
    """
    source, captions = _captions(config)
    known = rendered_captions()
    unknown = [caption for caption in captions if caption not in known]
    if captions and len(captions) - len(unknown) < MIN_SHARE * len(captions):
        raise ConfigError(
            f"{source}: {len(unknown)} of {len(captions)} captions are not of the rendered set, as "
            f"{unknown[0][:80]!r}. "
            "`lavie score` judges stage base by the colour and the direction of the shapes that `lavie data demo` "
            "renders ('a red circle moving right'), and knows nothing of other clips: look at the validation samples "
            "and at `lavie sample`, and compare held-out losses with `lavie plot`"
        )


def rendered_captions() -> frozenset[str]:
    """Return every caption that the rendered set can have."""
    clips = {clip_caption(*words) for words in product(COLOURS, SHAPES, MOTIONS)}
    return frozenset(clips | {image_caption(*words) for words in product(COLOURS, SHAPES)})


def _captions(config: TrainConfig) -> tuple[str, Sequence[str]]:
    """Return where captions of the run were found, and some of them, evenly spaced; none if there are none."""
    for key, paths in (("data.train", config.data.train_paths), ("data.validation", config.data.validation)):
        if not paths or not all(Path(path).exists() for path in paths):
            continue
        try:
            index = load_index(paths)
        except DataError:  # what is damaged there is the business of `lavie data check`
            continue
        numbers = np.unique(np.linspace(0, len(index) - 1, min(LOOKED_AT, len(index))).astype(int))
        return f"{key} {', '.join(paths)}", [index[int(number)].caption for number in numbers]
    return "validation_prompts", config.validation_prompts
