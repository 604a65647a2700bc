"""Captions are told apart by script and by language."""

import pytest

from lavie.data.check.language import is_english, is_latin


@pytest.mark.parametrize(
    "caption, latin, english",
    (
        ("a dog runs on the beach", True, True),
        ("red car", True, True),
        ("ein Hund rennt durch den Park", True, False),
        ("un chien court sur la plage", True, False),
        ("собака бежит по пляжу", False, True),
        ("犬が走っている", False, True),
        ("Ärger über Öl", True, True),
        ("1234 !!", True, True),
    ),
)
def test_the_language_of_captions(caption, latin, english):
    assert is_latin(caption) == latin
    if latin:
        assert is_english(caption) == english
