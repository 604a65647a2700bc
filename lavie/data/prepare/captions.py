"""A caption is one line of clean UTF-8 text."""

from ...errors import DataError

MAX_CAPTION = 4096
"""Characters. CLIP reads 77 tokens; more than this is a wrong column or a wrong file."""
MAX_BYTES = 1 << 16
"""Of a caption's file: what is larger is not read."""


def clean_caption(raw: bytes | str) -> str:
    """One line, white space as single blanks. Raises DataError if it is not UTF-8, empty or far too long."""
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the caption is not UTF-8: {error}") from None
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not text:
        raise DataError("the caption is empty")
    if len(text) > MAX_CAPTION:
        raise DataError(f"the caption has {len(text)} characters, at most {MAX_CAPTION} are taken")
    return text
