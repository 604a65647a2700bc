"""The clips of one film, made in the sandbox; one that fails costs itself only."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from av.video.reformatter import VideoReformatter

from ...data.media.decode import checked_frames
from ...data.media.streams import open_video
from ...data.media.swscale import TO_RGB
from ...data.prepare.sandbox import Sandbox
from ...errors import DataError
from .encoding import even_box
from .making import Wanted, make_clips
from .reasons import keeps_samples, reasons_of_film
from .shots import Shot

SECONDS = 7200.0
"""Limit of processor time for one clip: where a film cannot be sought in, it is decoded up to the clip."""
PART = 64
"""Pictures that are sent at a time."""


class Clip(NamedTuple):
    """What became of a shot."""

    place: int
    """Which of the shots it is."""
    facts: dict[str, Any]
    """As `make_clips` tells them."""
    data: bytes
    """Its file; empty if there is none."""
    error: str
    """Why there is none."""


def cut_film(
    path: Path,
    sandbox: Sandbox,
    film: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    shots: Sequence[Shot],
    *,
    keep_audio: bool = False,
) -> Iterator[Clip]:
    """Yield the clips of a film: first those that are copied, then those that are encoded, each in order.

    Args:
        path: the film.
        sandbox: where it is read.
        film: its row in the table of the scan.
        arrays: what the scan knows of its frames.
        shots: what is to become clips, in order.
        keep_audio: whether the clips have the film's sound.
    """
    facts = facts_for_child(film, arrays) | {"keep_audio": keep_audio}
    left = {place: Wanted(place, *shot, bool(arrays["key"][shot.start])) for place, shot in enumerate(shots)}
    while left:
        at: int | None = None
        part: dict[str, Any] = {}
        try:
            with open_film(path, film) as file:
                for sent in sandbox.stream(make_clips, file, facts, list(left.values()), seconds=SECONDS):
                    if isinstance(sent, bytes):
                        yield Clip(part["place"], part, sent, "")
                        del left[part["place"]]
                    elif "error" in sent:
                        yield Clip(sent["place"], {}, b"", sent["error"])
                        del left[sent["place"]]
                    elif "at" in sent:
                        at = sent["at"]
                    else:
                        part = sent
            assert not left, f"clips {sorted(left)} were neither made nor refused"
        except DataError as error:
            # The child died at this clip, or the film cannot even be opened.
            lost = [at] if at in left else list(left)
            for place in lost:
                yield Clip(place, {}, b"", str(error))
                del left[place]


def facts_for_child(film: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what the child must know of a film, as JSON can hold it. The arguments are those of `cut_film`."""
    reasons = reasons_of_film(film)
    return {
        "codec": film["codec"],
        "fps": film["fps"],
        "vfr": film["vfr"],
        "time_base": film["time_base"],
        "interlaced": film["interlaced"] > 0,
        "box": even_box(film["crop"], (film["width"], film["height"])),
        "reasons": reasons,
        "keeps_samples": keeps_samples(film, reasons),
        "pts": arrays["pts"].tolist(),
        "checksum": arrays["checksum"].tolist(),
    }


def open_film(path: Path, film: Mapping[str, Any]) -> BinaryIO:
    """Return the open file of a film.

    Args:
        path: where it lies.
        film: its row in the table of the scan.

    Raises:
        DataError: it is missing, or of another size than the one that was scanned.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"it cannot be opened: {error.strerror}") from None
    size = os.fstat(file.fileno()).st_size
    if size != film["bytes"]:
        file.close()
        raise DataError(f"it has {size} bytes, and had {film['bytes']} when it was scanned: scan it again")
    return file


def film_pictures(path: Path, sandbox: Sandbox, film: Mapping[str, Any], width: int, height: int) -> Iterator[Any]:
    """Yield the frames of a film in small, as `Pictures` does.

    Args:
        path: the film.
        sandbox: where it is read.
        film: its row in the table of the scan.
        width: in pixels.
        height: in pixels.
    """
    with open_film(path, film) as file:
        yield from sandbox.stream(small_frames, file, width, height)


def small_frames(file: BinaryIO, width: int, height: int) -> Iterator[np.ndarray]:
    """Yield all frames of a film, scaled and not turned: uint8 (n, height, width, 3), RGB; runs in the child."""
    reformatter, held = VideoReformatter(), []
    with open_video(file, None, first=True) as (container, stream):
        for frame, _ in checked_frames(stream, container.demux(stream), None):
            small = reformatter.reformat(frame, width=width, height=height, format="rgb24", interpolation=TO_RGB)
            held.append(small.to_ndarray())
            if len(held) == PART:
                yield np.stack(held)
                held = []
        if held:
            yield np.stack(held)
