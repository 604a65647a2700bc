"""Words learnt by textual inversion (Gal et al. 2023): files of vectors that stand where a token's embedding would.

| file | content |
|---|---|
| AUTOMATIC1111's .pt | {"string_to_param": {"*": (k, D)}, ...}, named by its file |
| AUTOMATIC1111's .safetensors | {"emb_params": (k, D)}, named by its file |
| diffusers' .bin or .safetensors | {word: (D) or (k, D), ...} |

A word of k vectors takes the places of k tokens.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError
from .torch_file import is_safetensors, read_torch_file, safetensors_fault

log = logging.getLogger("lavie")

LARGEST_FILE = 64 << 20
"""Bytes beyond which a file holds no words: 75 vectors of 1,280 numbers are 0.4 MB."""
LARGEST_NUMBER = 1000.0
"""The largest number of a vector, of either sign: those of CLIP's own words are far below it."""
WORDS = "string_to_param"
"""The entry of AUTOMATIC1111's .pt that holds the vectors."""
VECTORS = "emb_params"
"""The only entry of AUTOMATIC1111's .safetensors."""
BRACKETS = re.compile(r"[()\[\]\\]")
"""Characters that prompts read as more than themselves; see prompt_syntax.py."""
OTHERS = (
    (re.compile(r"^clip_[gl]$"), "a word for SDXL, which has two text encoders"),
    (re.compile(r"^model\.diffusion_model\.|^cond_stage_model\."), "a whole checkpoint"),
    (re.compile(r"lora|hada_w|lokr_w"), "a LoRA: give it with --lora"),
)
"""Names of entries by which files of other kinds are known, and what they are."""


def read_words(path: str | Path, name: str | None = None) -> dict[str, Tensor]:
    """Return the vectors of the words in a file, each float32 (k, D). Nothing in the file is run.

    Args:
        path: one of the files above.
        name: what the word is called in prompts; default: as the file says, and where it does not, its name without
            the ending.

    Raises:
        CheckpointError: the file cannot be read, or is of another kind.
    """
    path = Path(path)
    entries = _read(path)
    if WORDS in entries:
        vectors = entries[WORDS]
        if not isinstance(vectors, Mapping) or len(vectors) != 1:
            raise _refused(path, f"its {WORDS} is no dict of one word")
        found = {path.stem: next(iter(vectors.values()))}
    elif VECTORS in entries:
        found = {path.stem: entries[VECTORS]}
    else:
        _require_words(path, entries)
        found = dict(entries)

    if name is not None:
        if len(found) != 1:
            raise CheckpointError(f"--embedding {path}: it holds {len(found)} words, {_listed(found)}: drop the name")
        found = {name: next(iter(found.values()))}
    return {_callable(path, word.strip()): _checked(path, word, vectors) for word, vectors in found.items()}


def add_words(text_encoder: Any, given: Iterable[str]) -> str:
    """Teach a text encoder the words of files, and return what they are, for records: names and hashes of the vectors.

    Args:
        text_encoder: one of text_encoder.py.
        given: FILE or NAME=FILE each, as `--embedding` takes them.

    Raises:
        CheckpointError: a file cannot be read, its vectors are not as wide as the encoder's, or two words are of one
            name.
    """
    told = []
    for text in given:
        name, path = split_name(text)
        for word, vectors in read_words(path, name).items():
            width = text_encoder.channels
            if vectors.shape[1] != width:
                raise CheckpointError(
                    f"--embedding {path}: vectors of {vectors.shape[1]} numbers, the text encoder has {width}: the word"
                    " was learnt for another network"
                )
            if len(vectors) > text_encoder.room:
                raise CheckpointError(
                    f"--embedding {path}: {word!r} has {len(vectors)} vectors, the text encoder reads "
                    f"{text_encoder.room} tokens"
                )
            if known_as(word) in text_encoder.learnt:
                raise CheckpointError(f"--embedding {path}: the word {word!r} is given twice: call one NAME=FILE")
            text_encoder.learnt[known_as(word)] = vectors
            told.append(f"{word} {hashlib.sha256(vectors.numpy().tobytes()).hexdigest()[:16]}")
    return ", ".join(sorted(told))


def teach(given: Iterable[str], encoders: Mapping[str, Any], *, tell: bool = True) -> dict[str, str]:
    """Teach words to every text encoder that is as wide as their vectors, and return what each has learnt.

    Args:
        given: as for `add_words`.
        encoders: the text encoders of stages, by stage.
        tell: whether a warning names the stages that do not learn a word.

    Returns:
        by stage, as `add_words` tells it; without the stages that learnt none.

    Raises:
        CheckpointError: a file cannot be read, or fits none of them.
    """
    learnt: dict[str, list[str]] = {}
    for text in given:
        name, path = split_name(text)
        widths = {vectors.shape[1] for vectors in read_words(path, name).values()}
        fitting = {stage: encoder for stage, encoder in encoders.items() if widths == {encoder.channels}}
        for stage, encoder in (fitting or encoders).items():  # where none fits, the first one says why
            learnt.setdefault(stage, []).append(add_words(encoder, [text]))
        others = [stage for stage in encoders if stage not in fitting]
        if others and tell:
            log.warning(
                "--embedding %s: %s has a text encoder of another width, which reads the name as plain words",
                path,
                " and ".join(others),
            )
    return {stage: ", ".join(words) for stage, words in learnt.items()}


def known_as(word: str) -> str:
    """Return a word in lower case, letter for letter: a letter whose lower case is two characters stays."""
    return "".join(lower if len(lower := letter.lower()) == 1 else letter for letter in word)


def split_name(text: str) -> tuple[str | None, Path]:
    """Return the name and the file of NAME=FILE, or None and the file of FILE."""
    name, sign, file = text.partition("=")
    if not sign or Path(text).exists():
        return None, Path(text)
    if not name.strip():
        raise CheckpointError(f"--embedding {text}: the name before = is empty: wanted FILE or NAME=FILE")
    return name.strip(), Path(file)


def _read(path: Path) -> dict[str, Any]:
    """Return the entries of a file by name. Raises CheckpointError if it is no dict of names."""
    wanted = "wanted a .pt or .bin of plain tensors (weights_only), or a .safetensors, of textual inversion"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"--embedding {path}: cannot be read: {error.strerror}; {wanted}") from None
    if size > LARGEST_FILE:
        raise _refused(path, f"it has {size / 1e6:.0f} MB, words of textual inversion have less than one")
    try:
        if is_safetensors(path, unknown=path.suffix == ".safetensors"):
            content: Any = load_file(path)
        else:
            content = read_torch_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"--embedding {path}: cannot be read: {error}; {wanted}") from None
    except Exception as error:  # the reader of safetensors raises what has no class of its own
        reason = safetensors_fault(path, error)
        raise CheckpointError(f"--embedding {path}: cannot be read: {reason}; {wanted}") from None
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise _refused(path, "it holds no dict of names")
    return content


def _require_words(path: Path, entries: Mapping[str, Any]) -> None:
    """Raise CheckpointError, and say what the file is, unless each entry could be the vectors of a word."""
    for pattern, kind in OTHERS:
        if any(pattern.search(name) for name in entries):
            raise _refused(path, f"it is {kind}")
    for name, value in entries.items():
        if not isinstance(value, Tensor):
            raise _refused(path, f"its entry {name!r} is no tensor")


def _callable(path: Path, word: str) -> str:
    """Return a word. Raises CheckpointError if prompts cannot call it so."""
    if BRACKETS.search(word):
        raise CheckpointError(
            f"--embedding {path}: the word is called {word!r}, and brackets weigh words in prompts: call it otherwise, "
            f"as --embedding {BRACKETS.sub('', word).strip() or 'NAME'}={path}"
        )
    return word


def _checked(path: Path, word: str, vectors: Any) -> Tensor:
    """Return vectors as float32 (k, D). Raises CheckpointError if they are something else."""
    if not word.strip():
        raise _refused(path, "its word has no letters: give NAME=FILE")
    if not isinstance(vectors, Tensor) or not vectors.is_floating_point() or vectors.ndim not in (1, 2):
        shape = f"{vectors.dtype} {tuple(vectors.shape)}" if isinstance(vectors, Tensor) else type(vectors).__name__
        raise _refused(path, f"its word {word!r} is {shape}, wanted floats (k, D)")
    vectors = vectors.detach().float().reshape(-1, vectors.shape[-1]).contiguous()
    if not vectors.numel() or not vectors.isfinite().all():
        raise _refused(path, f"the vectors of its word {word!r} are empty or not finite")
    if (largest := float(vectors.abs().max())) > LARGEST_NUMBER:
        told = f"its word {word!r} has numbers as large as {largest:.3g}"
        raise _refused(path, f"{told}: wanted at most {LARGEST_NUMBER:g}")
    return vectors


def _refused(path: Path, why: str) -> CheckpointError:
    """Return the error of a file of another kind."""
    return CheckpointError(f"--embedding {path}: no words of textual inversion: {why}")


def _listed(words: Iterable[str]) -> str:
    """Return the first names of words, for a message."""
    names = list(words)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
