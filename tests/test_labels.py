"""Captions of any language are drawn in glyphs, never as boxes; what no font has is escaped and named."""

import ast
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from lavie import labels

ROOT = Path(__file__).resolve().parents[1]
SIZE = 40


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No font but matplotlib's and the one that LAVIE_FONT names, and nothing remembered from other tests."""
    monkeypatch.delenv(labels.VARIABLE, raising=False)
    monkeypatch.setattr(labels, "_of_system", lambda: ())
    monkeypatch.setattr(labels, "told", set())
    for function in (labels._fonts, labels._chosen):
        function.cache_clear()
    yield
    for function in (labels._fonts, labels._chosen):
        function.cache_clear()


def drawn(text):
    """The ink of a line of text: bool (H, W)."""
    picture = Image.new("L", (60 + int(labels.text_width(text, SIZE)), 2 * SIZE), 255)
    labels.draw_text(ImageDraw.Draw(picture), (10, 10), text, SIZE, "#000000")
    return np.asarray(picture) < 128


def box():
    """The ink of the glyph that stands for a character that DejaVu lacks."""
    font = ImageFont.truetype(labels._default(), SIZE)
    picture = Image.new("L", (100, 2 * SIZE), 255)
    ImageDraw.Draw(picture).text((10, 10), "\N{CJK UNIFIED IDEOGRAPH-4E2D}", fill=0, font=font)
    return np.asarray(picture) < 128


def cropped(ink):
    """The smallest part of a picture that holds all of its ink."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize(
    "text",
    (
        "äöüßéñł\N{EM DASH}",  # Latin
        "\N{CYRILLIC CAPITAL LETTER ZHE}\N{CYRILLIC SMALL LETTER SHCHA}",
        "\N{GREEK SMALL LETTER ALPHA}\N{GREEK SMALL LETTER OMEGA WITH TONOS}",
        "\N{ARABIC LETTER THEH}\N{ARABIC LETTER AIN}\N{ARABIC LETTER LAM}",
        "\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}",
    ),
)
def test_no_letter_of_these_languages_is_a_box(text, caplog):
    glyphs = FT2Font(labels._default()).get_charmap()
    for letter in text:
        assert glyphs[ord(letter)] != 0  # 0 is .notdef
        ink = cropped(drawn(letter))
        assert ink.any()
        assert not np.array_equal(ink, cropped(box()))
    assert not caplog.records


@pytest.mark.skipif(not labels.ImageFont.core.HAVE_RAQM, reason="Pillow was built without Raqm, which joins letters")
def test_arabic_letters_join_and_run_to_the_left():
    beh, alef = "\N{ARABIC LETTER BEH}", "\N{ARABIC LETTER ALEF}"
    assert labels.text_width(3 * beh, SIZE) < 0.8 * 3 * labels.text_width(beh, SIZE)  # joined forms are narrower
    # The first letter stands at the right: the tall alef at the end of the word rises at the left.
    ink = cropped(drawn(beh + beh + alef))
    tall = np.flatnonzero(ink[: len(ink) // 3].any(0))
    assert tall.mean() < ink.shape[1] / 2


def test_what_no_font_has_is_escaped_and_named_once(caplog):
    text = "fox \N{CJK UNIFIED IDEOGRAPH-72D0}\N{CJK UNIFIED IDEOGRAPH-72D0} \N{FOX FACE}\N{SOFT HYPHEN}\N{BELL}"
    escaped = "fox \\u72d0\\u72d0 \\U0001f98a"
    assert "".join(piece for _, piece in labels._pieces(text)).replace("\N{SOFT HYPHEN}", "") == escaped + "\\U0001f514"
    assert np.array_equal(drawn("\N{FOX FACE}"), drawn("\\U0001f98a"))
    assert labels.label_text("a \N{FOX FACE}") == "a \\U0001f98a"
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "\N{CJK UNIFIED IDEOGRAPH-72D0} \N{FOX FACE}" in record.getMessage()
    assert "LAVIE_FONT" in record.getMessage()


def test_another_font_draws_what_dejavu_lacks(monkeypatch, caplog):
    stix = labels._default().replace("DejaVuSans", "STIXGeneral")
    lacking = min(labels._characters(stix) - labels._characters(labels._default()) - set(range(0xE000, 0xF900)))
    text = f"a {chr(lacking)}"
    monkeypatch.setenv(labels.VARIABLE, stix)
    assert [path for path, _ in labels._pieces(text)] == [labels._default(), stix]
    chosen = drawn(text)
    assert not np.array_equal(cropped(drawn(chr(lacking))), cropped(box()))

    # The same font among the system's.
    monkeypatch.delenv(labels.VARIABLE)
    monkeypatch.setattr(labels, "_of_system", lambda: (stix,))
    for function in (labels._fonts, labels._chosen):
        function.cache_clear()
    assert np.array_equal(drawn(text), chosen)
    assert not caplog.records


def test_a_variable_that_names_no_font_is_told(monkeypatch, caplog, tmp_path):
    (tmp_path / "font.ttf").write_text("none")
    monkeypatch.setenv(labels.VARIABLE, str(tmp_path / "font.ttf"))
    assert drawn("plain").any()
    assert "which is no font file" in caplog.text


def test_lines_fit_their_width():
    text = "a fox that runs in the snow " * 4 + "x" * 60
    lines = labels.wrapped(text, 200, 15)
    assert all(labels.text_width(line, 15) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert labels.wrapped("", 200, 15) == [""]


@pytest.mark.parametrize(
    "text", ("$a$ or $b$", "_private", "\\$5", "50 % & {x}^2", "\N{CJK UNIFIED IDEOGRAPH-72D0} $x$")
)
def test_matplotlib_draws_a_label_as_it_is(text):
    """In letters, not as mathematics; with a warning neither of glyphs nor of legends."""
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label=labels.label_text(text))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [shown] = axes.legend().get_texts()
        figure.draw_without_rendering()
    drawn_text, is_math = shown._preprocess_math(shown.get_text())
    assert is_math is False
    assert drawn_text.strip() == text.replace("\N{CJK UNIFIED IDEOGRAPH-72D0}", "\\u72d0")


WRITES = {"set_title": 0, "suptitle": 0, "set_xlabel": 0, "set_ylabel": 0, "text": 2, "annotate": 0}
"""The methods of matplotlib that take a text, and where."""
WRITTEN = ("label", "title", "xlabel", "ylabel")


def test_every_text_for_matplotlib_goes_through_one_function():
    """What is not written in the code itself, that is; and matplotlib is given nothing else of pyplot's kind."""
    faults, seen = [], 0
    for path in [*(ROOT / "lavie").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        code = path.read_text()
        if "matplotlib" not in code or path.name == "labels.py" or "lavie/kernels" in str(path):
            continue
        for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", "")
            texts = [k.value for k in call.keywords if k.arg in WRITTEN and isinstance(call.func, ast.Attribute)]
            texts += call.args[WRITES[name] :][:1] if name in WRITES else []
            for text in texts:
                seen += 1
                safe = isinstance(text, ast.Constant) or getattr(getattr(text, "func", None), "id", "") == "label_text"
                faults += [] if safe else [f"{path.name}:{text.lineno}: {ast.unparse(text)}"]
    assert faults == [] and seen > 20
