"""The clips of a study: what several models drew for the same prompts and indices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError, DataError
from ...run_folder import PROMPTS
from ..captions import read_captions
from ..clip_source import Clip, find_clips, plain_name


@dataclass(frozen=True)
class Item:
    """A prompt, and which of its samples."""

    prompt: str
    index: int


@dataclass(frozen=True)
class Sources:
    """The clips of every model, in the order of the items."""

    items: list[Item]
    clips: dict[str, list[Clip]]
    """By model, in the order in which the models were given."""
    passed: dict[str, int]
    """How many clips of a model are of no prompt, where there are any."""


def named_folders(words: Sequence[str]) -> dict[str, Path]:
    """Return folders by the names of their models: NAME=FOLDER, or a folder, whose own name is then the model's.

    Raises:
        ConfigError: fewer than two, two of one name, or a name that does not fit on a line.
    """
    folders: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or Path(word).exists():
            name, folder = Path(word).resolve().name, word
        if not name.strip() or not name.isprintable() or name in folders:
            raise ConfigError(f"{word!r}: wanted a name that no other model has, of letters on one line: NAME=FOLDER")
        folders[name] = Path(folder)
    if len(folders) < 2:
        raise ConfigError(f"got {len(folders)} folder of clips: wanted two or more, one for each model")
    return folders


def find_sources(folders: Mapping[str, Path], prompts: Path) -> Sources:
    """Return the clips of all models for the prompts of a file.

    1. A .jsonl names the file of each sample, as `lavie sample` writes prompts.jsonl, or takes --jobs. Every model has
       a clip of that name, of any ending.
    2. Any other file has a prompt on each line. The clips of a model, sorted by name, are so many for each prompt, the
       same number for all models. Where a folder has a prompts.jsonl, it must agree.

    Raises:
        ConfigError: the text cannot be read, or holds no prompt.
        DataError: the list cannot be read; or a model has no clip for a sample, or too many, or they are of other
            prompts.
    """
    found = {model: find_clips(folder) for model, folder in folders.items()}
    if prompts.suffix == ".jsonl":
        return _by_name(found, read_captions(prompts, "--prompts").texts)
    lines = [line.strip() for line in _read(prompts).splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"--prompts {prompts}: no line has a prompt")
    sources = _by_order(found, lines, prompts)
    for model, folder in folders.items():
        if (folder / PROMPTS).is_file():
            _require_same(model, folder, sources)
    return sources


def _by_name(found: Mapping[str, list[Clip]], named: Mapping[str, str]) -> Sources:
    """Return the clips that have the names of samples, without their endings."""
    counts: dict[str, int] = {}
    items = []
    for prompt in named.values():
        counts[prompt] = counts.get(prompt, 0) + 1
        items.append(Item(prompt, counts[prompt] - 1))
    clips, passed = {}, {}
    for model, own in found.items():
        by_name: dict[str, Clip] = {}
        for clip in own:
            other = by_name.setdefault(plain_name(clip.name), clip)
            if other is not clip and plain_name(clip.name) in named:
                raise DataError(f"{model}: {other.name} and {clip.name} are of one sample: keep one of them")
        missing = [name for name in named if name not in by_name]
        if missing:
            raise DataError(f"{model}: {len(missing)} of {len(named)} samples have no clip, as {missing[0]}")
        clips[model] = [by_name[name] for name in named]
        if len(own) > len(named):
            passed[model] = len(own) - len(named)
    return Sources(items, clips, passed)


def _by_order(found: Mapping[str, list[Clip]], lines: Sequence[str], prompts: Path) -> Sources:
    """Return all clips, as many for each line."""
    counts = {model: len(clips) for model, clips in found.items()}
    each, rest = divmod(next(iter(counts.values())), len(lines))
    if len(set(counts.values())) > 1 or rest or not each:
        told = ", ".join(f"{model} {count}" for model, count in counts.items())
        raise DataError(
            f"clips of the models: {told}; {prompts} has {len(lines)} prompts: wanted as many of each model, and a "
            "whole number for each prompt; a .jsonl of prompt and name chooses among them"
        )
    return Sources([Item(line, index) for line in lines for index in range(each)], dict(found), {})


def _require_same(model: str, folder: Path, sources: Sources) -> None:
    """Raise DataError if the folder's own list of prompts is another one."""
    own = read_captions(folder / PROMPTS, "").texts
    for clip, item in zip(sources.clips[model], sources.items, strict=True):
        prompt = own.get(plain_name(clip.name))
        if prompt is not None and prompt != item.prompt:
            raise DataError(
                f"{model}: {clip.name} shows {prompt!r} by {folder / PROMPTS}, where --prompts has {item.prompt!r}: "
                f"give --prompts {folder / PROMPTS}"
            )


def _read(path: Path) -> str:
    """Return the text of the file of --prompts."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {path}: cannot be read: {error}") from None
