"""How much of a caption a text encoder reads, counted as it counts: in tokens, or in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MARKS = 2
"""Tokens of CLIP's 77 that mark the start and the end of a caption."""


@dataclass(frozen=True)
class CaptionLimit:
    """The length beyond which a text encoder cuts a caption, and the way to measure it."""

    most: int
    """Length up to which captions are read whole."""
    unit: str
    """What lengths count: "tokens" or "words"."""
    rule: str
    """The words by which a count of longer captions is told, as "more than 77 tokens; CLIP reads the first 75"."""
    lengths: Callable[[Sequence[str]], list[int]]
    """Returns the length of each caption."""

    def count(self, captions: Sequence[str]) -> int:
        """Return how many of the captions are longer than is read."""
        return sum(length > self.most for length in self.lengths(captions))


def clip_words(max_length: int = 77) -> CaptionLimit:
    """Return CLIP's limit where no tokenizer is at hand: a word has at least one token, so longer captions are cut.

    Captions of fewer words may be cut too.
    """
    most = max_length - MARKS
    rule = f"more than {most} words; CLIP reads {most} tokens, of a word or less each"
    return CaptionLimit(most, "words", rule, lambda captions: [len(caption.split()) for caption in captions])
