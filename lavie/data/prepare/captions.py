"""The rules for captions: one line of clean UTF-8 text, neither empty nor far too long."""

from ...errors import DataError

MAX_CAPTION = 4096
"""Most characters of a caption. CLIP reads 77 tokens, so a longer text comes from a wrong column or a wrong file."""
MAX_BYTES = 1 << 16
"""Most bytes of a caption's file: 64 KiB, far more than MAX_CAPTION characters need. Larger files are not read."""


def clean_caption(raw: bytes | str) -> str:
    """Return a caption as one line: unprintable characters and runs of white space become single blanks.

    Raises:
        DataError: the caption is not UTF-8, is empty, or has more than MAX_CAPTION characters.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the caption is not UTF-8: {error}") from None
    printable = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(printable.split())
    if not text:
        raise DataError("the caption is empty")
    if len(text) > MAX_CAPTION:
        raise DataError(f"the caption has {len(text)} characters, at most {MAX_CAPTION} are taken")
    return text
