"""Captions become one clean line each."""

import pytest

from lavie.data.prepare.captions import MAX_CAPTION, clean_caption
from lavie.errors import DataError


@pytest.mark.parametrize(
    "raw, clean",
    ((b"\xef\xbb\xbfa  dog\r\n", "a dog"), ("ein Bär", "ein Bär"), ("a\x00b\x1b[31m\tc", "a b [31m c")),
)
def test_captions_become_one_clean_line(raw, clean):
    assert clean_caption(raw) == clean


def test_overlong_captions_are_refused():
    with pytest.raises(DataError, match=f"at most {MAX_CAPTION}"):
        clean_caption("x" * (MAX_CAPTION + 1))
