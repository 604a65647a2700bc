"""Pictures of clips: the frames that a score looks at, decoded in the sandbox.

The clips are files of the curation's own, but their packets may be copies of a film's, which anybody may have made.
"""

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby, islice
from queue import SimpleQueue
from typing import Any

import numpy as np
from PIL import Image

from ..data.media.decode import read_frames
from ..data.media.keyframes import last_safe_keyframe
from ..data.media.streams import open_video
from ..data.prepare.sandbox import Sandbox
from ..data.shards.index_file import Rejected
from ..errors import DataError
from .unit import Unit

LARGEST = 1080
"""The most pixels of the short side of a picture in colour; larger ones are made smaller by a whole factor."""


@dataclass(frozen=True)
class Look:
    """What became of looking at a clip."""

    row: dict[str, Any]
    """Its columns of `cut`."""
    pictures: np.ndarray | None
    """uint8 (n, H, W, 3), RGB, or (n, H, W), grey; None if the clip cannot be decoded."""
    rejected: Rejected | None
    """Why it cannot."""


def midpoints(frames: int, parts: int) -> list[int]:
    """Return the middle frame of each of so many equal parts of a clip, ascending; short clips repeat frames."""
    return [(2 * i + 1) * frames // (2 * parts) for i in range(parts)]


def look_at_clips(
    unit: Unit,
    wanted: Callable[[int], Sequence[int]],
    *,
    only: Container[str] | None = None,
    grey_width: int | None = None,
    decoders: int = 1,
) -> Iterator[Look]:
    """Yield a look at each clip of a unit, in the order of `cut`, while the next ones are being decoded.

    Args:
        unit: the unit; the caller's stage reads "cut".
        wanted: which frames, ascending from 0, are looked at in a clip of so many frames.
        only: the names of the clips that are looked at. Default: None, all.
        grey_width: pixels across of grey pictures. Default: None, pictures in colour, at most LARGEST.
        decoders: processes that decode.

    Raises:
        DataError: the clips on the disk are missing or damaged; that says nothing of the films, so no clip is refused.
    """
    rows = [row for row in unit.read("cut").to_pylist() if only is None or row["clip"] in only]
    free: SimpleQueue[Sandbox] = SimpleQueue()
    with ExitStack() as stack:
        for _ in range(decoders):
            free.put(stack.enter_context(closing(Sandbox())))
        pool = stack.enter_context(ThreadPoolExecutor(decoders))

        def look(row: dict[str, Any]) -> Look:
            """Decode what is wanted of one clip."""
            data, indices = unit.clip_bytes(row), [int(i) for i in wanted(row["frames"])]
            sandbox = free.get()
            try:
                found = sandbox.call(read_pictures, data, indices, row["frames"], grey_width)
                return Look(row, found, None)
            except DataError as error:
                return Look(row, None, Rejected(row["clip"], "cannot be decoded", f"{row['film']}: {error}"))
            finally:
                free.put(sandbox)

        # As many wait as are decoded, so that few pictures are in memory.
        ahead: deque[Future[Look]] = deque()
        for row in rows:
            ahead.append(pool.submit(look, row))
            if len(ahead) > 2 * decoders:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def read_pictures(data: bytes, indices: Sequence[int], frames: int, grey_width: int | None) -> np.ndarray:
    """Return frames of a clip, made smaller or grey; runs in the child.

    Args:
        data: the clip's file.
        indices: which frames, ascending; the same one may come several times.
        frames: how many the clip has.
        grey_width: as for `look_at_clips`.

    Returns:
        uint8 (n, H, W, 3), RGB, or (n, H, W), grey.

    Raises:
        DataError: the file is damaged, or ends before a frame that is wanted.
    """
    pictures = []
    for group in _groups(data, indices, frames):
        pictures += [_fitted(pixels, grey_width) for pixels in read_frames(data, group, frames)]
    return np.stack(pictures)


def _groups(data: bytes, indices: Sequence[int], frames: int) -> Iterator[list[int]]:
    """Yield the frames that are wanted in groups: those of one group are decoded from one keyframe on.

    A clip with a keyframe each second need not be decoded whole for the sake of a few frames.
    """
    with open_video(data) as (container, stream):
        packets = [packet for packet in islice(container.demux(stream), frames + 2) if packet.size]
        codec, header = stream.codec_context.codec.canonical_name, bytes(stream.codec_context.extradata or b"")
        starts = {i: last_safe_keyframe(packets, codec, header, frames, i) for i in indices}
    for _, group in groupby(indices, starts.__getitem__):
        yield list(group)


def _fitted(pixels: np.ndarray, grey_width: int | None) -> np.ndarray:
    """Return a frame, uint8 (H, W, 3), as a grey picture of a given width, or in colour and not too large."""
    picture = Image.fromarray(pixels)
    if grey_width is not None:
        size = grey_width, max(1, round(grey_width * picture.height / picture.width))
        return np.asarray(picture.convert("L").resize(size, Image.Resampling.BOX))
    factor = -(-min(picture.size) // LARGEST)
    return np.asarray(picture.reduce(factor)) if factor > 1 else pixels
