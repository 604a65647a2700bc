"""Captions become one clean line each."""

import sys
import unicodedata

import pytest

from lavie.data.check.language import is_english
from lavie.data.prepare.captions import MAX_CAPTION, clean_caption
from lavie.errors import DataError

SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


@pytest.mark.parametrize(
    "raw, clean",
    (
        (b"\xef\xbb\xbfa  dog\r\n", "a dog"),
        ("ein Bär", "ein Bär"),
        ("a\x00b\x1b[31m\tc", "a b [31m c"),
        ("an extra\u00adordinary co\u00adoperation", "an extraordinary cooperation"),
        ("butter\u200bfly", "butterfly"),
        ("\u202ea dog\u202c\u2060 runs\ufeff", "a dog runs"),
        ("a\u00a0dog\u3000runs\u2028away", "a dog runs away"),
        ("گربه می\u200cدود", "گربه می\u200cدود"),
        ("क्\u200dष", "क्\u200dष"),
        ("👨\u200d👩\u200d👧 at sea ❤\ufe0f", "👨\u200d👩\u200d👧 at sea ❤\ufe0f"),
        (f"{SCOTLAND} kilt", f"{SCOTLAND} kilt"),
        ("a dog\U000e0068\U000e0069\U000e007f runs", "a dog runs"),
        ("\u0600١٢", "\u0600١٢"),
        ("a \ud800 dog", "a dog"),
    ),
)
def test_captions_become_one_clean_line(raw, clean):
    assert clean_caption(raw) == clean


def test_each_kind_of_character_in_all_of_unicode():
    """Between two letters, every format character but those that carry meaning vanishes, blanks and controls part."""
    kept = {0x200C, 0x200D, *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind == "Cf":
            assert clean_caption(f"a{character}b") == (f"a{character}b" if code in kept else "ab")
        elif kind[0] == "Z" or kind == "Cc":
            assert clean_caption(f"a{character}b") == "a b"


def test_invisible_characters_make_no_caption():
    for text in ("", " \u200b\n", "\u200d \u200c", "\u00ad"):
        with pytest.raises(DataError, match="is empty"):
            clean_caption(text)


def test_a_soft_hyphen_does_not_make_a_caption_foreign():
    """Cut at its soft hyphens, the caption has many more words, and too few of them are common in English."""
    text = "bi-cy-clists ex-plore pic-tur-esque moun-tain-ous land-scapes of Nor-way".replace("-", "\u00ad")
    assert not is_english(text.replace("\u00ad", " "))
    assert is_english(clean_caption(text))


def test_overlong_captions_are_refused():
    with pytest.raises(DataError, match=f"at most {MAX_CAPTION}"):
        clean_caption("x" * (MAX_CAPTION + 1))
