"""The stage `caption`: captions of the clips that the rules over earlier columns keep, for captions are dear."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from ...config.curate_caption import CaptionConfig, CaptionWork
from ...data.shards.index_file import Rejected
from ..pictures import look_at_clips, midpoints
from ..select.columns import needed, unit_columns
from ..select.rules import survivors
from ..stage import TEXTS, Done, Stage, made
from ..unit import Unit
from .base import Asked, Captioner, NoCaption
from .choice import captioner_identity, open_captioner
from .clean import cleaned

VERSION = 1
COLUMNS = {
    "clip": "string",
    "caption_raw": "string",
    "caption": "string",
    "words": "int32",
    "captioner": "string",
}
"""caption_raw: as it was given; caption: as `clean.cleaned` leaves it, null where that is no caption; words: of that.
All are null for clips that the rules drop."""


def work(unit: Unit, config: CaptionWork) -> Done:
    """Caption the clips of a unit that the rules keep; each of them that gets no caption is named.

    Captions that the same captioner has given the same clips before are kept: other rules cost new clips alone.

    Raises:
        ConfigError: no captioner is named, or it is not there, or a rule does not fit its column.
        CheckpointError: a network cannot be loaded.
        DataError: the captioner died, hangs, or does not say what can be understood.
    """
    captioner = open_captioner(config.caption, unit.src)
    rows = unit.read("cut").to_pylist()
    found = unit_columns(unit.out, unit.name, _wanted(config))
    assert found is not None, "the stage reads cut"
    kept = [not name for name in survivors(found[0], config.rules).to_pylist()]
    wanted = [row for row, keep in zip(rows, kept, strict=True) if keep]
    answers: dict[str, str | NoCaption] = {}
    if captioner.looks:
        known = _known(unit, config)
        answers = {row["clip"]: known[row["clip"]] for row in wanted if row["clip"] in known}
    answers |= _answers(unit, config.caption, captioner, [row for row in wanted if row["clip"] not in answers])

    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    rejected = []
    for row in rows:
        answer = answers.get(row["clip"])
        raw = None if isinstance(answer, NoCaption) else answer
        caption = answer if raw is None else cleaned(raw, cut_off=captioner.cut_off)
        if isinstance(caption, NoCaption):
            rejected.append(Rejected(row["clip"], caption.reason, f"{row['film']}: {caption.detail}"))
            caption = None
        words = None if caption is None else len(caption.split())
        name = None if raw is None else captioner.name
        for column, value in zip(COLUMNS, (row["clip"], raw, caption, words, name), strict=True):
            columns[column].append(value)
    return Done(columns, rejected)


def _answers(
    unit: Unit, config: CaptionConfig, captioner: Captioner, rows: Sequence[Mapping[str, Any]]
) -> dict[str, str | NoCaption]:
    """Return what a captioner says of clips, by their names."""
    answers: dict[str, str | NoCaption] = {}

    def asked() -> Iterator[Asked]:
        """Yield the clips with what is seen of them; one that cannot be decoded is answered at once."""
        if not captioner.looks:
            yield from (Asked(row, None) for row in rows)
            return
        names = {row["clip"] for row in rows}
        looks = look_at_clips(
            unit, lambda frames: midpoints(frames, config.frames), only=names, decoders=config.decoders
        )
        for look in looks:
            if look.pictures is None:
                assert look.rejected is not None
                detail = look.rejected.detail.removeprefix(f"{look.row['film']}: ")
                answers[look.row["clip"]] = NoCaption(look.rejected.reason, detail)
            else:
                yield Asked(look.row, smaller(look.pictures, config.side))

    clips = asked()
    while batch := list(islice(clips, captioner.batch)):
        for one, answer in zip(batch, captioner(batch), strict=True):
            answers[one.row["clip"]] = answer
    return answers


def smaller(pictures: np.ndarray, side: int) -> np.ndarray:
    """Return pictures with a short side of at most so many pixels, uint8 (n, H, W, 3)."""
    height, width = pictures.shape[1:3]
    short = min(height, width)
    if short <= side:
        return pictures
    size = max(1, round(width * side / short)), max(1, round(height * side / short))
    resized = [Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC) for picture in pictures]
    return np.stack([np.asarray(picture) for picture in resized])


def _known(unit: Unit, config: CaptionWork) -> dict[str, str]:
    """Return the captions, as they were given, that the same captioner has given the clips of the same cut."""
    before, cut = made(unit.out, "caption", unit.name), made(unit.out, "cut", unit.name)
    if before is None or cut is None or before.version != VERSION or before.inputs.get("cut") != cut.content:
        return {}
    if before.config.get("captioner") != captioner_identity(config.caption):
        return {}
    table = unit.read("caption", ["clip", "caption_raw"]).to_pydict()
    return {clip: raw for clip, raw in zip(table["clip"], table["caption_raw"], strict=True) if raw is not None}


def _wanted(config: CaptionWork) -> dict[str, list[str]]:
    """Return the columns that the rules read of each stage."""
    return needed([rule.column for rule in config.rules])


def _reads(config: CaptionWork) -> tuple[str, ...]:
    """Return the stages that the rules and the captioner read."""
    return (*_wanted(config), *((TEXTS,) if config.caption.captioner == "sidecar" else ()))


def _identity(config: CaptionWork) -> dict[str, Any]:
    """Return what of the settings decides the captions."""
    rules = [rule.model_dump(mode="json", exclude_defaults=True) for rule in config.rules]
    return {"captioner": captioner_identity(config.caption), "rules": rules}


CAPTION = Stage("caption", VERSION, _reads, CaptionWork, COLUMNS, work=work, identity=_identity, gpu=True)
