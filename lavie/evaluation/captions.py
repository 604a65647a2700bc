"""The captions of clips, by the clips' names: from tables, sampled runs, and the annotations of MSR-VTT."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from ..inference.jobs import Job
from ..json_text import parse_json, read_json
from ..seeds import key64
from .clip_source import Clip, plain_name

NAMES = ("name", "video", "file")
TEXTS = ("prompt", "caption", "text")
"""The columns that a table may have for the name of a clip and for its text; the first that is there counts."""
TEST_VIDEOS = 2990
"""Videos of MSR-VTT's test split, video7010 to video9999."""


@dataclass(frozen=True)
class Captions:
    """What is asked of clips."""

    texts: Mapping[str, str]
    """The text of each clip, by its name without the ending of a video."""
    origin: dict[str, Any]
    """Where they come from, in the JSON of a result."""
    notes: list[str] = field(default_factory=list)
    """What a reader of a number should know of them."""


def read_captions(path: Path, option: str = "--captions") -> Captions:
    """Return the captions of a table, in its order: JSON lines or a CSV with a column of names and one of texts.

    The prompts.jsonl of `lavie sample` and `lavie generate` is one, and so are the jobs of `lavie sample --jobs`.

    Args:
        path: the table.
        option: the option that named it, for messages.

    Raises:
        DataError: the table cannot be read, a row lacks a column, or two rows are of one clip.
    """
    texts: dict[str, str] = {}
    table = f"{option} {path}".lstrip()
    for place, row in _rows(path, table):
        name, text = (next((row[key] for key in keys if row.get(key)), None) for keys in (NAMES, TEXTS))
        if not isinstance(name, str) or not isinstance(text, str):
            wanted = f"a name ({', '.join(NAMES)}) and a text ({', '.join(TEXTS)})"
            raise DataError(f"{table}, {place}: wanted {wanted}, got {', '.join(map(str, row)) or 'nothing'}")
        name = plain_name(name)
        if name in texts:
            raise DataError(f"{table}, {place}: {name} stands there twice")
        texts[name] = text
    if not texts:
        raise DataError(f"{table}: no row has a caption")
    return Captions(texts, {"source": str(path)})


def _rows(path: Path, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a table, each with its place for a message, which calls it by the name `table`."""
    if path.suffix not in (".jsonl", ".csv"):
        raise DataError(f"{table}: wanted a .jsonl or a .csv")
    number = 0
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            for row in (reader := csv.DictReader(io.StringIO(text, newline=""), strict=True)):
                number = reader.line_num
                if None in row:  # where a comma in a text has no quotes around the text
                    raise ValueError(f"{len(row[None])} more cells than the first line has columns")
                yield f"line {number}", row
            return
        for number, line in enumerate(text.split("\n"), 1):  # a text may hold other ends of lines
            if line.strip():
                row = parse_json(line)
                yield f"line {number}", row if isinstance(row, dict) else {}
    except (OSError, ValueError, csv.Error) as error:
        place = f", line {number}" if number else ""
        raise DataError(f"{table}{place}: cannot be read: {error}") from None


def own_captions(clips: Sequence[Clip], source: Path) -> Captions | None:
    """Return the captions that the clips bring along, as those of shards do; None unless all have one."""
    texts = {plain_name(clip.name): clip.caption for clip in clips if clip.caption is not None}
    return Captions(texts, {"source": str(source)}) if len(texts) == len(clips) else None


def require_drawn_of(drawn: Captions, captions: Captions) -> None:
    """Raise DataError if clips were drawn of other texts than those that are asked of them.

    Args:
        drawn: what the clips were drawn of.
        captions: what they are to be scored by.
    """
    others = [name for name, text in drawn.texts.items() if captions.texts.get(name, text) != text]
    if others:
        raise DataError(
            f"{len(others)} clips were drawn of other captions, as {others[0]} of {drawn.texts[others[0]]!r}, and not "
            f"{captions.texts[others[0]]!r}: wanted the --seed and the annotations of their prompts"
        )


def match(names: Sequence[str], captions: Captions) -> list[str]:
    """Check that each clip has a caption, and return the names of the captions for which there is no clip.

    Raises:
        DataError: a clip has no caption, or two clips have the same.
    """
    clips: dict[str, str] = {}
    for name in names:
        other = clips.setdefault(plain_name(name), name)
        if other != name:
            raise DataError(f"{other} and {name} are of one caption: keep one of them")
    if without := [name for plain, name in clips.items() if plain not in captions.texts]:
        raise DataError(
            f"{len(without)} of {len(names)} clips have no caption in {captions.origin['source']}, as {without[0]}: "
            f"it names {next(iter(captions.texts))}, for example"
        )
    return sorted(captions.texts.keys() - clips.keys())


class Sentence(NamedTuple):
    """One caption of a video of MSR-VTT."""

    video_id: str
    sen_id: int
    caption: str


def draw_msrvtt(path: Path, seed: int) -> list[Sentence]:
    """Return one caption of each test video of MSR-VTT, drawn by the seed whatever the order of the file.

    Args:
        path: test_videodatainfo.json, of {"videos": [{"video_id", "split", ...}], "sentences": [{"caption",
            "video_id", "sen_id"}]}. Where videos have a split, those of "test" count.
        seed: of the draw.

    Raises:
        DataError: the file is none of these.
    """
    content = read_json(path)
    try:
        splits = {video["video_id"]: video.get("split", "test") for video in content["videos"]}
        by_video: dict[str, list[Sentence]] = {}
        for row in content["sentences"]:
            sentence = _sentence(row)
            if splits[sentence.video_id] == "test":
                by_video.setdefault(sentence.video_id, []).append(sentence)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: no annotations of MSR-VTT (test_videodatainfo.json): wanted videos of video_id, and sentences of "
            f"caption, video_id and sen_id; got {type(error).__name__} {error}"
        ) from None
    if not by_video:
        raise DataError(f"{path}: no video of the test split has a sentence")
    drawn = []
    for video, sentences in by_video.items():
        sentences.sort(key=lambda sentence: sentence.sen_id)
        drawn.append(sentences[key64(seed, f"caption of {video}") % len(sentences)])
    return sorted(drawn, key=lambda sentence: (len(sentence.video_id), sentence.video_id))


def _sentence(row: Any) -> Sentence:
    """Return a sentence of an annotation. Raises KeyError, TypeError or ValueError where it is none."""
    video, number, caption = row["video_id"], row["sen_id"], row["caption"]
    if not isinstance(video, str) or not re.fullmatch(r"\w[\w.-]{0,99}", video):
        raise ValueError(f"video_id {video!r:.60}: wanted a name such as video7010")
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError(f"caption {caption!r:.60} of {video}: wanted a text")
    return Sentence(video, int(number), caption)


def msrvtt_captions(path: Path, seed: int) -> Captions:
    """Return the captions of MSR-VTT's test videos, with the sen_id of each; see `draw_msrvtt`."""
    drawn = draw_msrvtt(path, seed)
    origin = {"source": str(path), "seed": seed, "sen_ids": {sentence.video_id: sentence.sen_id for sentence in drawn}}
    notes = []
    if len(drawn) != TEST_VIDEOS:
        notes.append(f"{path.name} has {len(drawn)} test videos: MSR-VTT has {TEST_VIDEOS}")
    return Captions({sentence.video_id: sentence.caption for sentence in drawn}, origin, notes)


def msrvtt_jobs(path: Path, seed: int) -> Iterator[Job]:
    """Yield what is to be drawn: a clip for each test video's caption, as video7010.mp4."""
    for index, sentence in enumerate(draw_msrvtt(path, seed)):
        yield Job(prompt=sentence.caption, name=f"{sentence.video_id}.mp4", index=index)
