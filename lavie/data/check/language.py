"""Whether a caption is likely English: by its script, and by the words that hardly any English sentence is without."""

import re
import unicodedata

STOP_WORDS = frozenset(
    "a an the and or of in on at to from by with without for into onto over under near behind between through "
    "across up down out off is are was were be being has have had do does it its he she his her they their them "
    "this that these those there some while as who which where not no one two three".split()
)
"""English words that other European languages do not have in this number; short labels have none of them."""
LABEL = 4
"""Captions of fewer words may be labels, which are not judged."""


def is_latin(caption: str) -> bool:
    """Whether at least half of the letters are Latin. A caption without letters is."""
    letters = [c for c in caption if c.isalpha()]
    return 2 * sum(c.isascii() or unicodedata.name(c, "").startswith("LATIN") for c in letters) >= len(letters)


def is_english(caption: str) -> bool:
    """Whether one word in ten is an English stop word. Captions shorter than LABEL words are taken as English."""
    words = re.findall(r"[a-z]+", caption.lower())
    return len(words) < LABEL or 10 * sum(w in STOP_WORDS for w in words) >= len(words)
