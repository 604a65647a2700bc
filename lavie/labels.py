"""Text in pictures: fonts that have its characters, lines that fit a width, and escapes for what no font here can draw.

Every character is drawn by the first of these that has it:

1. DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian, Georgian, mathematics;
2. the font file that LAVIE_FONT names;
3. the fonts of the system, those first that have most of what is missing: Chinese, Japanese, Korean, Devanagari, Thai;
4. none: it appears as its escape, \\u4e2d, and a warning names it, once.

Right-to-left and joined scripts are laid out by Raqm, which Pillow's wheels bring along.
"""

import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

log = logging.getLogger("lavie")

VARIABLE = "LAVIE_FONT"
"""The environment variable that names a font file for the characters that DejaVu lacks."""
LAST_RESORT = "lastresort"
"""Part of the names of fonts that draw a box for every character there is."""
INVISIBLE = ("Cc", "Cf")
"""Unicode categories of controls and joiners, which are left out where no font has them."""
SELECTORS = range(0xFE00, 0xFE10)
"""Code points that choose between two looks of the character before them, left out alike."""
told: set[str] = set()
"""The characters that a warning of this process has named."""


def label_text(text: str) -> str:
    """Return a text as what matplotlib is to be given for it in a title, a legend or beside an axis.

    1. DejaVu Sans alone draws it: other characters appear as their escapes.
    2. Nothing in it is mathematics, which matplotlib finds between two dollar signs.
    3. It does not begin with an underscore, for such a curve has no place in a legend.
    """
    shown = "".join(piece for _, piece in _pieces(text, only=_default())).replace("$", "\\$")
    return f" {shown}" if shown.startswith("_") else shown


def text_width(text: str, size: int) -> float:
    """Return the width of a line in pixels, in letters of `size` pixels."""
    return sum(_font(path, size).getlength(piece) for path, piece in _pieces(text))


def draw_text(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: str) -> None:
    """Draw one line of text.

    Args:
        draw: of the picture.
        place: left and top, pixels.
        text: the line.
        size: of the letters, pixels.
        fill: the colour, as "#1f3b73".
    """
    left, top = place
    # All fonts stand on one line, though their letters rise above it to different heights.
    baseline = top + _font(_default(), size).getmetrics()[0]
    for path, piece in _pieces(text):
        draw.text((left, baseline), piece, fill=fill, font=_font(path, size), anchor="ls")
        left += _font(path, size).getlength(piece)


def wrapped(text: str, width: float, size: int) -> list[str]:
    """Return the text as lines of at most `width` pixels, at least one; what is too long for a line is broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if text_width(longer, size) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")

        # A word that is wider than a line, as all of a Chinese sentence is, ends wherever the line does.
        for character in word:
            if lines[-1] and text_width(lines[-1] + character, size) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _pieces(text: str, only: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield the text as (path of a font, characters that it draws), what no font has being escaped or left out.

    Args:
        only: the path of the one font to use; default: every font there is.
    """
    fonts = [only] if only else _fonts(frozenset(text))
    drawn: list[tuple[str, str]] = []
    missing = []
    for character in text:
        path = next((path for path in fonts if ord(character) in _characters(path)), None)
        if path:
            drawn.append((path, character))
        elif unicodedata.category(character) not in INVISIBLE and ord(character) not in SELECTORS:
            missing.append(character)
            drawn.append((_default(), _escape(character)))
    if missing and not only:
        _tell(missing)
    for path, group in groupby(drawn, key=lambda pair: pair[0]):
        yield path, "".join(piece for _, piece in group)


@cache
def _fonts(characters: frozenset[str]) -> tuple[str, ...]:
    """Return the paths of the fonts that draw a set of characters, in the order in which they are asked."""
    fonts = [path for path in (_default(), _chosen()) if path]
    missing = {ord(c) for c in characters} - set().union(*map(_characters, fonts))
    while missing:
        best = max(_of_system(), key=lambda path: len(missing & _characters(path)), default=None)
        if best is None or not missing & _characters(best):
            break
        fonts.append(best)
        missing -= _characters(best)
    return tuple(fonts)


@cache
def _default() -> str:
    """Return the path of matplotlib's DejaVu Sans."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"))


@cache
def _chosen() -> str | None:
    """Return the path that LAVIE_FONT names; None, with a warning, if that is no font."""
    path = os.environ.get(VARIABLE)
    if path and not _characters(path):
        log.warning("%s is %s, which is no font file: it is left out", VARIABLE, path)
        return None
    return path or None


@cache
def _of_system() -> tuple[str, ...]:
    """Return the paths of the system's fonts, sorted."""
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(path for path in findSystemFonts() if LAST_RESORT not in Path(path).name.lower()))


@cache
def _characters(path: str) -> frozenset[int]:
    """Return the code points that a font has a glyph for; none if the file cannot be drawn with."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, 16)  # a font of pictures, as of emoji, has sizes of its own and is refused
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font at a size in pixels."""
    return ImageFont.truetype(path, size)


def _escape(character: str) -> str:
    """Return a character's escape in Python, JSON and many other languages."""
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _tell(missing: Iterable[str]) -> None:
    """Warn of characters that no font has, of each once."""
    new = list(dict.fromkeys(character for character in missing if character not in told))
    told.update(new)
    if new:
        log.warning(
            "pictures: no font here has %s; they are drawn as escapes, as %s: install a font that has them, or name "
            "its file in %s",
            " ".join(new),
            _escape(new[0]),
            VARIABLE,
        )
