"""The score of a new word: a colour that the network learnt of the rendered set has never seen, taught by adapters.

The judge looks at clips with and without the adapters, of the same noise: of the new colour, and of the old ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.prepare.synthetic import COLOURS, DIRECTIONS, HELD_OUT, NEW_COLOURS, PALETTE, SHAPES, clip_caption
from ..errors import ConfigError
from ..inference.beside_base import Pair, draw_pairs, load_both, motion_ratio, write_pairs
from ..inference.sampler import Progress
from ..inference.settings import BaseSettings
from .judge import Verdict, judge_clip

CLIPS = 24
"""Clips of the new colour, and as many of the old ones."""
SHOWN = 6
"""Pairs of each kind in the sheet."""

Case = tuple[str, Verdict]
"""A prompt, and what the judge should see."""


def score_word(
    run: str | Path, word: str, out: str | Path, *, clips: int = CLIPS, seed: int = 0, progress: Progress | None = None
) -> dict[str, Any]:
    """Write compare.png and compare.json about a new colour into a folder, and return the numbers.

    Args:
        run: of adapters on a base that was trained on the rendered set.
        word: a name in NEW_COLOURS.
        out: created if missing.
        clips: of each kind.
        seed: of the initial noise.
        progress: called after every denoising step as progress(step, steps), over all clips.

    Returns:
        "new" and "old", each with the shares, 0 to 1, of clips whose colour and direction are right: colour_without,
        colour_with, direction_without, direction_with; and their motion_ratio, with adapters by without.

    Raises:
        ConfigError: there is no such colour, or the run trains no adapters.
    """
    require_word(word)
    without, adapted, config = load_both(run)
    cases = [*new_cases(word, clips), *old_cases(clips)]
    settings = BaseSettings.of(config, seed=seed, negative_prompt="", prompt_syntax="plain")
    pairs = draw_pairs((without, adapted), [prompt for prompt, _ in cases], settings, progress=progress)
    colours = COLOURS | {word: PALETTE[word]}
    numbers = {
        "word": word,
        "new": shares(pairs[:clips], cases[:clips], colours),
        "old": shares(pairs[clips:], cases[clips:], colours),
    }
    write_pairs(Path(out), [*pairs[:SHOWN], *pairs[clips : clips + SHOWN]], numbers)
    return numbers


def require_word(word: str) -> None:
    """Raise ConfigError if a word is no colour that can be rendered and is not in the rendered set."""
    if word not in NEW_COLOURS:
        raise ConfigError(f"--word {word}: wanted a colour that the rendered set lacks: {', '.join(NEW_COLOURS)}")


def new_cases(word: str, clips: int) -> list[Case]:
    """Return cases of a new colour, which go round all shapes and directions."""
    kinds = [(shape, direction) for shape in SHAPES for direction in DIRECTIONS]
    chosen = [kinds[i % len(kinds)] for i in range(clips)]
    return [(clip_caption(word, shape, f"moving {direction}"), Verdict(word, direction)) for shape, direction in chosen]


def old_cases(clips: int) -> list[Case]:
    """Return cases of the old colours, which go round the combinations that training has left out."""
    chosen = [HELD_OUT[i % len(HELD_OUT)] for i in range(clips)]
    return [(clip_caption(c, shape, f"moving {d}"), Verdict(c, d)) for c, shape, d in chosen]


def shares(pairs: Sequence[Pair], cases: Sequence[Case], colours: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
    """Return what `score_word` says of some pairs, whose prompts are those of the cases."""
    found: dict[str, Any] = {}
    for name in ("without", "with"):
        seen = [judge_clip(pair.without if name == "without" else pair.adapted, colours) for pair in pairs]
        for key in ("colour", "direction"):
            right = [getattr(s, key) == getattr(wanted, key) for s, (_, wanted) in zip(seen, cases, strict=True)]
            found[f"{key}_{name}"] = sum(right) / len(right)
    return found | {"motion_ratio": motion_ratio(pairs)}
