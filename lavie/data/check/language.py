"""A guess whether a caption is English, from its script and from the commonest English words."""

import re
import unicodedata

_STOP_WORDS = """
a an the and or of in on at to from by with without for into onto over under near behind between through across up down
out off is are was were be being has have had do does it its he she his her they their them this that these those there
some while as who which where not no one two three
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that nearly every English sentence has, and that other European languages have in smaller number."""
SHORTEST_SENTENCE = 4
"""Captions of fewer words may be labels ("red car"), which need no stop word and are taken as English."""


def is_latin(caption: str) -> bool:
    """Whether at least half of the caption's letters are Latin; a caption without letters counts as Latin."""
    letters = [c for c in caption if c.isalpha()]
    return 2 * sum(c.isascii() or unicodedata.name(c, "").startswith("LATIN") for c in letters) >= len(letters)


def is_english(caption: str) -> bool:
    """Whether at least one word in ten is in STOP_WORDS, or the caption is shorter than SHORTEST_SENTENCE."""
    words = re.findall(r"[a-z]+", caption.lower())
    return len(words) < SHORTEST_SENTENCE or 10 * sum(w in STOP_WORDS for w in words) >= len(words)
