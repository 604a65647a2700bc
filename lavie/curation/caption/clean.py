"""Captions made plain: one line, without the words by which a model introduces itself, refuses or quotes."""

import re

from ...data.prepare.captions import clean_caption
from ...errors import DataError
from .base import NoCaption

PICTURES = "(?:video|clip|footage|image|picture|photo|scene|shot|sequence|frame|film|animation|gif)s?"
KIND = "(?:(?:short|brief|silent|slow[- ]motion|time[- ]?lapse|close[- ]?up|aerial|given|provided|same) )*"
SHOWS = (
    "(?:shows?|showing|depicts?|depicting|features?|featuring|captures?|capturing|displays?|displaying|presents?|"
    "presenting|portrays?|portraying|illustrates?|contains?|is of|is about|begins with|opens with)"
)
LEADS = re.compile(
    "|".join(
        (
            r"(?:sure|certainly|of course|okay|ok|absolutely)[!.,:]\s*",  # Sure! ...
            r"here(?: is|'s|’s)\b[^:.]*:\**\s*",  # Here is a caption: ...
            r"\**(?:\w+ ){0,2}(?:caption|description|answer|summary|output):\**\s*",  # Video caption: ...
            rf"(?:this|the|these|an?) {KIND}(?:{PICTURES} )?{PICTURES} {SHOWS}(?: that)?\s+",  # The video shows ...
            rf"(?:in|throughout) (?:this|the|these) {KIND}(?:{PICTURES} )?{PICTURES},?\s+"  # In this clip, we see ...
            r"(?:we (?:can )?see\s+|there (?:is|are)\s+)?",
            r"we (?:can )?see\s+",
            rf"an? {KIND}(?:video|clip|footage|sequence|gif) (?:clip )?of\s+",  # A video of ...
        )
    ),
    re.IGNORECASE,
)
"""Beginnings that say nothing of what is seen, with the blanks behind them."""
REFUSALS = re.compile(
    "|".join(
        (
            r"(?:i'?m|i am) (?:really |very |so )?sorry",
            r"sorry[,.!]",
            r"i apologi[sz]e",
            r"unfortunately,? i\b",
            r"(?:as|i am|i'm) an? (?:ai|artificial|(?:large )?language model)",
            r"i (?:cannot|can not|can't|couldn't|could not|am unable|am not able|don't|do not|won't|will not)",
            r"i'm (?:unable|not able)",
            r"unable to",
            r"cannot (?:describe|determine|assist|provide)",
            r"(?:there (?:is|are)|you (?:have|did))(?: not|n't| no)\b[^.]*\b(?:provided|attached|uploaded|shared)",
            r"(?:n/?a|none|null|unknown|no caption)\W*$",
        )
    ),
    re.IGNORECASE,
)
"""Beginnings of answers that are no captions."""
PAIRS = (('"', '"'), ("“", "”"), ("'", "'"), ("‘", "’"), ("«", "»"), ("**", "**"), ("*", "*"), ("`", "`"))
"""Marks that stand around a whole caption."""
APOSTROPHES = str.maketrans("’", "'")


def cleaned(raw: str, *, cut_off: bool = False) -> str | NoCaption:
    """Return a caption as plain text, or why it is none.

    1. One line without invisible characters, as `clean_caption`; emptiness is no caption, nor is far too long a text.
    2. Marks of quotation or emphasis around it, bullets before it, and beginnings of LEADS go, as often as there are.
    3. What begins as a refusal is no caption.
    4. It begins with a capital letter, if it lost its beginning.

    Args:
        raw: the answer as it was given.
        cut_off: whether it may end in the middle of a sentence, which then goes if there is one before it.
    """
    try:
        text = clean_caption(raw)
    except DataError as error:
        return NoCaption("unusable caption", str(error))
    whole, before = text, ""
    while text != before:
        before = text
        text = re.sub(r"^(?:[-•#>]+\s+|\d+[.)]\s+)", "", text).strip()
        for first, last in PAIRS:
            inner = text[len(first) : len(text) - len(last)]
            if text.startswith(first) and text.endswith(last) and inner and first not in inner and last not in inner:
                text = inner.strip()
        if lead := LEADS.match(text):
            text = text[lead.end() :].strip()
    if REFUSALS.match(text.translate(APOSTROPHES)):
        return NoCaption("refused", whole)
    if cut_off and (end := list(re.finditer(r"[.!?](?=\s)", text))) and not re.search(r"[.!?]\W*$", text):
        text = text[: end[-1].end()]
    if not re.search(r"\w", text):
        return NoCaption("unusable caption", f"nothing is left of {whole[:80]!r}")
    return text if text == whole else text[0].upper() + text[1:]
