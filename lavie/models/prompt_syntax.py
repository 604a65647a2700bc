r"""Weights within a prompt, as users of Stable Diffusion write them (AUTOMATIC1111's web UI).

    (text)        the text counts 1.1 times
    [text]        1 / 1.1 times
    (text:1.3)    1.3 times
    \( \) \[ \] \\   the characters themselves

Brackets nest, and their weights multiply. One that is never closed reaches to the end of the prompt, and a closing one
without an opening one is a character like others: so the smile of "a cat :)" stays.
"""

import math
import re
from typing import NamedTuple

from ..errors import ConfigError

STEP = 1.1
"""What one pair of brackets multiplies a weight by, or divides it by."""
LARGEST = 10.0
"""The largest weight, of either sign: beyond it one word drowns all others, and brackets have slipped in by the
hundred."""
DEEPEST = 100
"""Brackets that may be open at once: people write three. Each one that closes costs time for all that it holds."""
TOKEN = re.compile(r"\\(?P<escaped>[()\[\]\\])|:\s*(?P<weight>[-+]?[.\d]+)\s*\)|(?P<bracket>[()\[\]])")
"""What is no plain text: an escaped character, a weight with the bracket that it closes, a bracket."""
NUMBER = r"[-+]?(?:nan|inf(?:inity)?|[.,\d]*\d[.,\d]*(?:e[-+]?\d+)?)"
"""What somebody who writes it behind a colon means as a weight, whether it is one or not."""
MEANT = re.compile(rf":\s*(?P<number>{NUMBER})\s*$", re.IGNORECASE)
"""A number behind a colon, at the end of what brackets hold: a weight that was meant."""
NETWORK = re.compile(r"<(lora|lyco|hypernet):", re.IGNORECASE)
"""A network that the web UI reads out of a prompt."""


class Span(NamedTuple):
    """A piece of a prompt, all of whose words have one weight."""

    text: str
    weight: float = 1.0


class _Opened(NamedTuple):
    """A bracket that waits to be closed."""

    bracket: str
    first: int
    """The number of the first piece behind it."""


def parse_weights(prompt: str) -> list[Span]:
    """Return the pieces of a prompt in order, with their weights; a prompt without brackets is one of weight 1.

    Raises:
        ConfigError: a weight is no number or too large, or the prompt holds what the web UI calls prompt editing,
            alternating words or a network.
    """
    if found := NETWORK.search(prompt):
        raise _refused(
            prompt, f"{found.group()}...> is no text: give networks by an option of their own, as --lora FILE:scale"
        )
    pieces: list[Span] = []
    opened: list[_Opened] = []

    def add(text: str) -> None:
        """Add a piece of weight 1, which the brackets around it multiply when they close."""
        if text:
            pieces.append(Span(text))

    def close(bracket: str, weight: float) -> None:
        """Multiply all pieces since the last open bracket of the kind, if there is one."""
        place = next((i for i in reversed(range(len(opened))) if opened[i].bracket == bracket), None)
        if place is None:
            raise LookupError(bracket)
        first = opened.pop(place).first
        pieces[first:] = [Span(text, old * weight) for text, old in pieces[first:]]

    end = 0
    for match in TOKEN.finditer(prompt):
        add(prompt[end : match.start()])
        end = match.end()
        try:
            if match["escaped"]:
                add(match["escaped"])
            elif match["weight"]:
                close("(", _number(prompt, match["weight"]))
            elif match["bracket"] in "([":
                opened.append(_Opened(match["bracket"], len(pieces)))
                if len(opened) > DEEPEST:
                    raise _refused(prompt, f"more than {DEEPEST} brackets are open at once")
            elif match["bracket"] == ")":
                _require_no_number(prompt, pieces, opened)
                close("(", STEP)
            else:
                _require_plain(prompt, pieces, opened)
                close("[", 1 / STEP)
        except LookupError:
            add(match.group())
    add(prompt[end:])

    # What was never closed reaches to the end, unless it was meant to be closed and to do more than that.
    _require_closed(prompt, pieces, opened)
    for bracket, first in opened:
        pieces[first:] = [Span(text, old * (STEP if bracket == "(" else 1 / STEP)) for text, old in pieces[first:]]

    for _, weight in pieces:
        if not abs(weight) <= LARGEST:
            raise _refused(prompt, f"a weight of {weight:g}; wanted -{LARGEST:g} .. {LARGEST:g}")
    return _joined(pieces) or [Span("")]


def escaped(text: str) -> str:
    """Return a prompt that reads as the text itself, whose brackets weigh nothing."""
    return re.sub(r"[()\[\]\\]", r"\\\g<0>", text)


def _number(prompt: str, text: str) -> float:
    """Return a weight; ConfigError if it is no number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise _refused(prompt, f"the weight {text!r} is no number; wanted one, as in (fox:1.3)")
    return number


def _require_no_number(prompt: str, pieces: list[Span], opened: list[_Opened]) -> None:
    """Raise ConfigError if the round brackets that close now end in a number that is no weight, as 1e9, 1,3 or nan."""
    held = _held("(", pieces, opened)
    if held is not None and (meant := MEANT.search(held)):
        raise _refused(
            prompt,
            f"the weight {meant['number']!r} is no number in decimals; wanted one, as in (fox:1.3), or "
            rf"\( and \) for the brackets themselves",
        )


def _require_closed(prompt: str, pieces: list[Span], opened: list[_Opened]) -> None:
    """Raise ConfigError if a bracket that is never closed holds a weight, or words that change from step to step."""
    _require_plain(prompt, pieces, opened)
    held = _held("(", pieces, opened)
    if held is not None and (meant := MEANT.search(held.rstrip().removesuffix("]"))):
        raise _refused(
            prompt,
            f"the bracket of the weight {meant['number']} is never closed; wanted a ) behind it, as in (fox:1.3)",
        )


def _held(bracket: str, pieces: list[Span], opened: list[_Opened]) -> str | None:
    """Return the text since the last open bracket of a kind; None if none is open."""
    first = next((opening.first for opening in reversed(opened) if opening.bracket == bracket), None)
    return None if first is None else "".join(piece.text for piece in pieces[first:])


def _require_plain(prompt: str, pieces: list[Span], opened: list[_Opened]) -> None:
    """Raise ConfigError if the last square brackets that are open hold words that change from step to step."""
    text = _held("[", pieces, opened)
    if text is not None and ("|" in text or MEANT.search(text)):
        raise _refused(
            prompt,
            f"[{text[:60]}] asks for words that change from step to step, which is not built: leave it out, or write "
            r"\[ and \] for the brackets themselves",
        )


def _joined(pieces: list[Span]) -> list[Span]:
    """Return the pieces with neighbours of one weight as one: words that an escape has cut are whole again."""
    joined: list[Span] = []
    for piece in pieces:
        if joined and joined[-1].weight == piece.weight:
            joined[-1] = Span(joined[-1].text + piece.text, piece.weight)
        else:
            joined.append(piece)
    return joined


def _refused(prompt: str, why: str) -> ConfigError:
    """Return the error of a prompt that cannot be read."""
    shown = prompt if len(prompt) <= 60 else prompt[:60] + "..."
    return ConfigError(f"prompt {shown!r}: {why} (prompt_syntax=plain takes every character as it is)")
