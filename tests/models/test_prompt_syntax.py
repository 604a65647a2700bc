r"""Brackets weigh words as AUTOMATIC1111's web UI reads them; without brackets a prompt is one piece of weight 1."""

import contextlib
import time

import pytest

from lavie.errors import ConfigError
from lavie.models.prompt_syntax import Span, escaped, parse_weights


@pytest.mark.parametrize(
    "prompt, pieces",
    (
        ("", [("", 1)]),
        ("a fox, in the snow: 3 of them", [("a fox, in the snow: 3 of them", 1)]),
        ("a (fox) runs", [("a ", 1), ("fox", 1.1), (" runs", 1)]),
        ("a [fox] runs", [("a ", 1), ("fox", 1 / 1.1), (" runs", 1)]),
        ("a (red fox:1.3) runs", [("a ", 1), ("red fox", 1.3), (" runs", 1)]),
        ("(fox: 0.5 )", [("fox", 0.5)]),
        ("(fox:+2)(owl:-.5)", [("fox", 2), ("owl", -0.5)]),
        ("((fox))", [("fox", 1.21)]),
        ("((fox:2) runs)", [("fox", 2.2), (" runs", 1.1)]),
        ("[[fox] (runs:2)]", [("fox", 1 / 1.21), (" ", 1 / 1.1), ("runs", 2 / 1.1)]),
        ("([fox])", [("fox", 1)]),
        ("(a)(b)", [("ab", 1.1)]),
        (r"a \(tabby\) \[cat\] \\o/", [(r"a (tabby) [cat] \o/", 1)]),
        (r"(a \(b\):1.5)", [("a (b)", 1.5)]),
        ("a cat :)", [("a cat :)", 1)]),
        ("a cat ]", [("a cat ]", 1)]),
        ("a cat:1.5)", [("a cat:1.5)", 1)]),
        ("a cat: 1,5)", [("a cat: 1,5)", 1)]),
        (r"(a \(16:9,5\))", [("a (16:9,5)", 1.1)]),
        ("(a cat :)", [("a cat :", 1.1)]),
        ("a (cat, [dog", [("a ", 1), ("cat, ", 1.1), ("dog", 1.0)]),
        ("(at 12:30 o'clock)", [("at 12:30 o'clock", 1.1)]),
        ("()[](:1.3)", [("", 1)]),
        ("déjà (été\u2028:2)", [("déjà ", 1), ("été\u2028", 2)]),
    ),
)
def test_pieces_and_their_weights(prompt, pieces):
    found = parse_weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces], rel=1e-12)


@pytest.mark.parametrize("prompt", ("a fox", "a: b, c", "1.5", "\\", "a \\ b", "x|y"))
def test_without_brackets_nothing_is_touched(prompt):
    assert parse_weights(prompt) == [Span(prompt, 1.0)]


@pytest.mark.parametrize("text", ("a fox", "a (red:1.3) fox", "[fox|owl]", "a cat :)", r"a \(b\) \o/", "(a", "4:3)"))
def test_an_escaped_text_reads_as_itself(text):
    assert parse_weights(escaped(text)) == [Span(text, 1.0)]


@pytest.mark.parametrize(
    "prompt, words",
    (
        ("a (fox:1.2.3)", r"the weight '1\.2\.3' is no number; wanted one, as in \(fox:1\.3\)"),
        ("a (fox:.)", r"the weight '\.' is no number"),
        ("a (fox:11)", r"a weight of 11; wanted -10 \.\. 10"),
        ("(" * 30 + "fox" + ")" * 30, r"a weight of 17\.4"),
        ("(a" * 101, "more than 100 brackets are open at once"),
        ("a [fox:owl:0.5]", r"\[fox:owl:0\.5\] asks for words that change"),
        ("a [fox|owl] runs", "asks for words that change"),
        ("a (fox:nan)", "the weight 'nan' is no number in decimals"),
        ("a (fox:-inf)", "the weight '-inf' is no number"),
        ("a (fox: 1e9 )", "the weight '1e9' is no number"),
        ("a ((fox:1,3) runs)", "the weight '1,3' is no number"),
        ("a [fox|owl", r"\[fox\|owl\] asks for words that change"),
        ("a [fox:1e9]", "asks for words that change"),
        ("a (fox:1.3", r"the bracket of the weight 1\.3 is never closed; wanted a \) behind it"),
        ("a (fox:1.3]", r"the bracket of the weight 1\.3 is never closed"),
        ("a <lora:fox:1>", r"<lora:\.\.\.> is no text: give networks by an option of their own"),
    ),
)
def test_what_cannot_be_read_is_named_in_one_line(prompt, words):
    with pytest.raises(ConfigError, match=words) as error:
        parse_weights(prompt)
    assert "\n" not in str(error.value) and "prompt_syntax=plain" in str(error.value)


@pytest.mark.parametrize(
    "prompt",
    (
        "(" * 20_000,
        "[" * 20_000,
        ")" * 20_000,
        "(a:1)" * 4_000,
        "\\(" * 20_000,
        "(a" * 20_000,
        "([a" * 40 + "b" * 9_999,
    ),
)
def test_hostile_prompts_end_soon(prompt):
    start = time.process_time()
    with contextlib.suppress(ConfigError):
        parse_weights(prompt)
    assert time.process_time() - start < 2
