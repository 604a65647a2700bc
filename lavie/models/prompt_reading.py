"""From prompts as people write them to text features: weights, words that were learnt, long prompts, CLIP's layers.

A prompt without any of these goes through the text encoder exactly as a caption does in training.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from .prompt_syntax import Span, parse_weights
from .text_encoder import Token
from .textual_inversion import known_as

log = logging.getLogger("lavie")

Syntax = Literal["weights", "plain"]
REACH = 20
"""Tokens from the end of a full chunk within which it is ended at a comma instead, as AUTOMATIC1111's web UI does."""


@dataclass(frozen=True)
class Reading:
    """How prompts become features."""

    syntax: Syntax = "weights"
    """weights: brackets weigh words (see prompt_syntax.py); plain: they are characters like others."""
    chunks: int = 1
    """Pieces of a text encoder's length that a long prompt may take; the rest of it is cut."""
    clip_skip: int = 1
    """Which of CLIP's layers the features are of, from the last: 1 is the last, 2 the one before."""


PLAIN = Reading("plain")
"""The reading of captions in training."""


Read = tuple[Any, str, Reading]
"""A text encoder, a prompt that it is to read, and how."""
SHOWN = 60
"""Characters of a prompt, and of what is cut off of it, that a warning shows."""
TOLD = 10
"""Prompts that are too long, beyond which a warning only counts them."""


class Weighted(NamedTuple):
    """A token, and how much it counts."""

    token: Token
    weight: float


def encode_branches(encoder: Any, branches: Sequence[Sequence[str]], reading: Reading) -> list[Tensor]:
    """Return the features of prompts, for each branch (n, L, D), with one L for all.

    L is the text encoder's length times the chunks of the longest prompt; shorter ones are filled with the features of
    the empty caption. Each chunk is encoded by itself, with its own start and end.

    Args:
        encoder: one of text_encoder.py, or any function of captions, which can read plain captions only.
        branches: those of guidance: the negative prompts, the prompts.
        reading: how they are read.

    Raises:
        ConfigError: a prompt cannot be read so, or the text encoder cannot.
    """
    features = [_encode(encoder, prompts, reading) for prompts in branches]
    length = max(branch.shape[1] for branch in features)
    if all(branch.shape[1] == length for branch in features):
        return features
    empty = _encode(encoder, [""], reading)
    filled = []
    for branch in features:
        missing = (length - branch.shape[1]) // empty.shape[1]
        filled.append(torch.cat([branch, empty.expand(len(branch), -1, -1).repeat(1, missing, 1)], 1))
    return filled


def warn_of_unread(read: Iterable[Read]) -> None:
    """Log a warning, once for each, of prompts whose last words are cut off; of the first TOLD by name.

    Raises:
        ConfigError: a prompt cannot be read so.
    """
    found = cut_prompts(read)
    for prompt, cut in found[:TOLD]:
        log.warning("prompt %r is too long: the network never sees its end, %r", shortened(prompt), shortened(cut))
    if len(found) > TOLD:
        log.warning("%d more prompts are too long: the network never sees their ends", len(found) - TOLD)


def cut_prompts(read: Iterable[Read]) -> list[tuple[str, str]]:
    """Return prompts whose last words are cut off, each once, with these words.

    Raises:
        ConfigError: a prompt cannot be read so.
    """
    cuts = [(prompt, unread(encoder, prompt, how)) for encoder, prompt, how in read if hasattr(encoder, "unread")]
    return [(prompt, cut) for prompt, cut in dict.fromkeys(cuts) if cut]


def warn_of_uncalled(read: Iterable[Read]) -> None:
    """Log a warning of learnt words that no prompt calls, of any text encoder that knows them: they change nothing.

    Raises:
        ConfigError: a prompt cannot be read so.
    """
    known: dict[str, bool] = {}
    for encoder, prompt, how in read:
        learnt = getattr(encoder, "learnt", {})
        known |= {name: False for name in learnt if name not in known}
        if learnt:
            texts = [span.text for span in parse_weights(prompt)] if how.syntax == "weights" else [prompt]
            known |= {_name(learnt, part): True for text in texts for part in _named(learnt).findall(text)}
    if uncalled := [name for name, called in known.items() if not called]:
        log.warning("--embedding: no prompt has %s: it changes nothing", shortened(" or ".join(map(repr, uncalled))))


def shortened(text: str) -> str:
    """Return a text of at most SHOWN characters, and how many words it has if it has more."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text.split())} words)"


def unread(encoder: Any, prompt: str, reading: Reading) -> str:
    """Return the words of a prompt that are cut off; an empty text where all are read."""
    spans = _spans(encoder, prompt, reading)
    if spans is None:
        return encoder.unread(prompt)
    chunks = _chunks(encoder, _tokens(encoder, spans), reading.chunks)
    read = sum(map(len, chunks))
    return encoder.text_of([token for token, _ in _tokens(encoder, spans)[read:]])


def _encode(encoder: Any, prompts: Sequence[str], reading: Reading) -> Tensor:
    """Return the features of prompts, (n, L, D): those of the text encoder itself where all of them are plain."""
    spans = [_spans(encoder, prompt, reading) for prompt in prompts]
    if all(found is None for found in spans):
        return encoder(list(prompts))
    if not hasattr(encoder, "encode_tokens"):
        raise ConfigError(
            f"{type(encoder).__name__} reads plain captions only: set prompt_syntax to plain, and prompt_chunks and "
            "clip_skip to 1"
        )
    rows = []
    for prompt, found in zip(prompts, spans, strict=True):
        tokens = _tokens(encoder, found or [Span(prompt)])
        rows.append([_encode_chunk(encoder, chunk, reading) for chunk in _chunks(encoder, tokens, reading.chunks)])
    most = max(map(len, rows))
    empty = _encode_chunk(encoder, [], reading)
    return torch.stack([torch.cat(row + [empty] * (most - len(row))) for row in rows])


def _encode_chunk(encoder: Any, chunk: Sequence[Weighted], reading: Reading) -> Tensor:
    """Return the features (L, D) of tokens that fit into one chunk."""
    features = encoder.encode_tokens([token for token, _ in chunk], reading.clip_skip)
    weights = [weight for _, weight in chunk]
    return features if all(weight == 1 for weight in weights) else encoder.emphasise(features, weights)


def _spans(encoder: Any, prompt: str, reading: Reading) -> list[Span] | None:
    """Return the weighted pieces of a prompt; None if the text encoder can take it as a plain caption."""
    spans = parse_weights(prompt) if reading.syntax == "weights" else [Span(prompt)]
    learnt = getattr(encoder, "learnt", {})
    plain = spans == [Span(prompt)] and reading.clip_skip == 1 and not (learnt and _named(learnt).search(prompt))
    if plain and reading.chunks > 1:
        plain = not hasattr(encoder, "unread") or not encoder.unread(prompt)
    return None if plain else spans


def _tokens(encoder: Any, spans: Sequence[Span]) -> list[Weighted]:
    """Return the tokens of a prompt, without start and end; a word that was learnt becomes its vectors."""
    tokens: list[Weighted] = []
    for text, weight in spans:
        parts = _named(encoder.learnt).split(text) if encoder.learnt else [text]
        for place, part in enumerate(parts):
            known = place % 2 == 1  # a split by one group alternates between what lies around it and the group
            found = list(encoder.learnt[_name(encoder.learnt, part)]) if known else encoder.split(part)
            tokens += [Weighted(token, weight) for token in found]
    return tokens


def _named(learnt: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of the names of learnt words, longer ones first, where they stand as words of their own."""
    names = "|".join(re.escape(name) for name in sorted(learnt, key=len, reverse=True))
    return re.compile(rf"(?<!\w)({names})(?!\w)", re.IGNORECASE)


def _name(learnt: Mapping[str, Tensor], part: str) -> str:
    """Return the name of a learnt word, which `_named` has found in a prompt as it stands there."""
    if (name := known_as(part)) in learnt:
        return name
    # Regular expressions know more letters of one case than `lower`, as the Turkish i: they say which word it is.
    names = sorted(learnt, key=len, reverse=True)
    return next(name for name in names if re.fullmatch(re.escape(name), part, re.IGNORECASE))


def _chunks(encoder: Any, tokens: Sequence[Weighted], most: int) -> list[list[Weighted]]:
    """Cut tokens into at most `most` chunks that the text encoder reads, and leave out what remains.

    A chunk that is followed by another ends behind its last comma, if that is among its last REACH tokens.
    """
    room = encoder.room
    chunks = [list(tokens[:room])]
    while len(chunks) < most and sum(map(len, chunks)) < len(tokens):
        full = chunks[-1]
        ends = [end for end in range(max(1, len(full) - REACH), len(full)) if encoder.is_comma(full[end - 1].token)]
        chunks[-1] = full[: ends[-1]] if ends else full
        start = sum(map(len, chunks))
        chunks.append(list(tokens[start : start + room]))
    return chunks
