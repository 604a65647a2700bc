"""VBench's prompts, the files that show them, and the plan of what is to be drawn.

A file is called `{prompt}-{number}.mp4`. Each prompt has the numbers 0 to 4; those of temporal flickering 0 to 24, of
which VBench's own `static_filter.py` keeps five without motion.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files import LONGEST_NAME
from ...inference.jobs import Job
from ...json_text import parse_json
from .dimensions import DIMENSIONS

SAMPLES = 5
"""Clips of each prompt that VBench scores."""
FLICKER_SAMPLES = 25
"""Clips to draw of each prompt of temporal flickering."""
KNOWN = {"5dd2de80ee43cda750b2b72ea7023657c0b90d3702041c7e4608c65dbe50dccd": "vbench 0.1.5"}
"""The SHA-256 of the whole of VBench's prompts, as a release has them."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, of all its entries."""

    text: str
    dimensions: tuple[str, ...]
    """What its clips are scored in."""
    number: int
    """Its place among the distinct prompts of the whole file."""

    def file(self, sample: int, suffix: str = ".mp4") -> str:
        """Return the name of a file of this prompt."""
        return f"{self.text}-{sample}{suffix}"


@dataclass(frozen=True)
class Suite:
    """The prompts of a `VBench_full_info.json`."""

    prompts: tuple[Prompt, ...]
    """The distinct ones, in the file's order."""
    entries: int
    """How many the file lists; some stand in it twice, for other dimensions."""
    sha256: str
    """The hash of the file."""

    @property
    def release(self) -> str | None:
        """The release of VBench whose prompts these are; None for a part of them, or others."""
        return KNOWN.get(self.sha256)

    def of(self, dimensions: Collection[str]) -> list[Prompt]:
        """Return the prompts of one or more dimensions."""
        return [prompt for prompt in self.prompts if set(prompt.dimensions) & set(dimensions)]


def read_suite(path: Path) -> Suite:
    """Return VBench's prompts, from the JSON that comes with it (`vbench/VBench_full_info.json` in its wheel).

    Raises:
        DataError: the file is none, or a prompt cannot be the name of a file.
    """
    try:
        data = path.read_bytes()
        entries = parse_json(data)
    except (OSError, ValueError) as error:
        raise DataError(f"--prompts {path}: cannot be read: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"--prompts {path}: wanted a list of prompts, as VBench_full_info.json is")
    found: dict[str, list[str]] = {}
    for number, entry in enumerate(entries, 1):
        try:
            text, dimensions = _entry(entry)
        except ValueError as error:
            raise DataError(f"--prompts {path}, entry {number}: {error}") from None
        known = found.setdefault(text, [])
        known += [name for name in dimensions if name not in known]
    prompts = tuple(Prompt(text, tuple(names), number) for number, (text, names) in enumerate(found.items()))
    return Suite(prompts, len(entries), hashlib.sha256(data).hexdigest())


def _entry(entry: Any) -> tuple[str, list[str]]:
    """Return the prompt and the dimensions of an entry. Raises ValueError where they are not as VBench has them."""
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt_en"), str):
        raise ValueError(f'wanted {{"prompt_en": ..., "dimension": [...]}}, got {str(entry)[:60]}')
    text, dimensions = entry["prompt_en"], entry.get("dimension")
    if not isinstance(dimensions, list) or not dimensions:
        raise ValueError(f"dimension of {text!r}: wanted a list of names")
    for name in dimensions:
        if not isinstance(name, str) or name not in DIMENSIONS:
            raise ValueError(f"dimension {str(name)[:60]!r}: wanted of {', '.join(DIMENSIONS)}")
    if not text.strip():
        raise ValueError("prompt_en is empty")
    if "/" in text or "\0" in text or text.startswith("."):
        raise ValueError(f"{text!r} cannot be the name of a file: it has a slash or a zero byte, or begins with a dot")
    size = len(f"{text}-{FLICKER_SAMPLES - 1}.mp4".encode())
    if size > LONGEST_NAME:
        raise ValueError(f"{text!r} makes a file name of {size} bytes: file systems take {LONGEST_NAME}")
    return text, dimensions


def samples_of(prompt: Prompt, flicker_samples: int = FLICKER_SAMPLES) -> int:
    """Return how many clips are drawn of a prompt."""
    return flicker_samples if "temporal_flickering" in prompt.dimensions else SAMPLES


def jobs(suite: Suite, dimensions: Collection[str], flicker_samples: int = FLICKER_SAMPLES) -> Iterator[Job]:
    """Yield what is to be drawn for some dimensions.

    The noise of a file is the same in every plan, so that a larger plan goes on with the files of a smaller one.
    """
    for prompt in suite.of(dimensions):
        for sample in range(samples_of(prompt, flicker_samples)):
            yield Job(prompt=prompt.text, name=prompt.file(sample), index=prompt.number * FLICKER_SAMPLES + sample)


def manifest(suite: Suite, dimensions: Collection[str], flicker_samples: int = FLICKER_SAMPLES) -> dict[str, Any]:
    """Return what a plan holds: counts by dimension, and each prompt with its dimensions and number of files."""
    prompts = suite.of(dimensions)
    counts = {prompt.text: samples_of(prompt, flicker_samples) for prompt in prompts}
    by_dimension = {
        name: {"prompts": len(some), "files": sum(counts[prompt.text] for prompt in some)}
        for name in DIMENSIONS
        if name in dimensions and (some := suite.of([name]))
    }
    return {
        "prompts_sha256": suite.sha256,
        "release": suite.release,
        "entries": suite.entries,
        "prompts": len(prompts),
        "files": sum(counts.values()),
        "scored_per_prompt": SAMPLES,
        "dimensions": by_dimension,
        "index": f"{FLICKER_SAMPLES} * (number of the prompt) + (number in the file's name), on --seed of the call",
        "notes": _notes(prompts, flicker_samples),
        "by_prompt": [
            {"prompt": prompt.text, "dimensions": list(prompt.dimensions), "files": counts[prompt.text]}
            for prompt in prompts
        ],
    }


def _notes(prompts: list[Prompt], flicker_samples: int) -> list[str]:
    """Return what whoever draws these prompts should know."""
    notes = []
    if any("temporal_flickering" in prompt.dimensions for prompt in prompts):
        fewer = "" if flicker_samples == FLICKER_SAMPLES else "; here fewer are drawn"
        notes.append(
            f"temporal_flickering: VBench draws {FLICKER_SAMPLES} clips of a prompt, and its static_filter.py (RAFT) "
            f"keeps {SAMPLES} that do not move{fewer}"
        )
    folded = Counter(unicodedata.normalize("NFC", prompt.text).casefold() for prompt in prompts)
    for text, count in folded.items():
        if count > 1:
            notes.append(
                f"{text!r}: {count} prompts differ in upper case only. Draw into a file system that tells them apart "
                "(not macOS's or Windows' by default), or one set of files replaces the other"
            )
    return notes
