"""The rules for captions: one line of clean UTF-8 text, neither empty nor far too long."""

import re
import unicodedata

from ...errors import DataError

MAX_CAPTION = 4096
"""Most characters of a caption. CLIP reads 77 tokens, so a longer text comes from a wrong column or a wrong file."""
MAX_BYTES = 1 << 16
"""Most bytes of a caption's file: 64 KiB, far more than MAX_CAPTION characters need. Larger files are not read."""
JOINERS = "\u200c\u200d"
"""Invisible characters that change what is read: the non-joiner of Persian, the joiner of Hindi and of emoji."""
NUMBER_SIGNS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""The format characters that are seen, around or above a number (Unicode: Prepended_Concatenation_Mark)."""
FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")
"""A flag of a region as of Scotland: a black flag, its name in tag characters, and their end (Unicode TR 51). Tag
characters anywhere else spell hidden text."""


def clean_caption(raw: bytes | str) -> str:
    """Return a caption as one line without invisible characters.

    1. White space, control characters and what Unicode has not assigned become blanks, runs of them one blank.
    2. Format characters, as soft hyphens and zero-width spaces, vanish without a blank. Kept are JOINERS, NUMBER_SIGNS,
       and the tags of a FLAG.

    Raises:
        DataError: the caption is not UTF-8, is empty, or has more than MAX_CAPTION characters.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the caption is not UTF-8: {error}") from None

    cleaned, position = [], 0
    for flag in FLAG.finditer(text):
        cleaned += [*map(_shown, text[position : flag.start()]), flag[0]]
        position = flag.end()
    cleaned += map(_shown, text[position:])
    text = " ".join("".join(cleaned).split())

    if not text.strip(JOINERS + " "):
        raise DataError("the caption is empty")
    if len(text) > MAX_CAPTION:
        raise DataError(f"the caption has {len(text)} characters, at most {MAX_CAPTION} are taken")
    return text


def _shown(character: str) -> str:
    """Return what stands for a character in a clean caption: itself, a blank, or nothing."""
    if character.isprintable() or character in JOINERS or character in NUMBER_SIGNS:
        return character
    return "" if unicodedata.category(character) == "Cf" else " "
