"""The scan of one film in the sandbox's child: it decodes once, and sends the values of its frames in parts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from av.video.reformatter import VideoReformatter

from ...data.media.decode import checked_frames, frame_rate, from_zero, notes_of
from ...data.media.hdr import to_standard_range
from ...data.media.shown import HDR, MATRICES, RGB, WIDE, Shape, colour_matrix, shown_size, turn
from ...data.media.streams import open_video, other_films
from ...data.media.swscale import TO_RGB
from ...data.prepare.sandbox import Sandbox
from ...errors import DataError
from ..checksum import frame_checksum
from .arrays import NAMES, WIDTH, FrameValues
from .bars import Bars
from .whole import check_whole

PART = 256
"""Frames whose values are sent at a time."""
LARGEST = 1024
"""The most pixels down of the picture that is measured: a narrow film is squeezed to it."""
SMALLEST = 16
"""The fewest pixels down: optical flow needs as many."""
SHORTFALL = 2.0
"""Seconds by which the frames may end before the duration that the header announces; sound may run on so long."""


def prepare() -> None:
    """Load OpenCV while the child can still open files, and start its optical flow once."""
    values = FrameValues()
    for level in (0, 90):
        values.measure(np.full((64, 64, 3), level, np.uint8))


def scan_film(path: Path, sandbox: Sandbox) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the facts of a film, and the values of its frames by name.

    Args:
        path: the film.
        sandbox: a sandbox whose child runs `prepare`.

    Returns:
        The facts, as `scan_frames` ends with; and float16 (F,) for each of `arrays.NAMES`, with `pts` int64 (F,), the
        frames' times in units of the facts' `time_base`, `time` float64 (F,), seconds from the first frame, `checksum`
        uint32 (F,), as `frame_checksum` makes it, and `key` bool (F,), whether a frame is a keyframe.

    Raises:
        DataError: the film is damaged, ends before its announced end, changed while it was read, or is past a limit.
    """
    values, stamps = [], []
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        facts: dict[str, Any] = {}
        for part in sandbox.stream(scan_frames, file):
            if isinstance(part, dict):
                facts = part
            elif part.dtype == np.int64:
                stamps.append(part)
            else:
                values.append(part)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError("the file changed while it was read")
    table = np.concatenate(values)
    arrays = {name: table[:, i] for i, name in enumerate(NAMES)}
    pts, checksums, keys = np.concatenate(stamps).T
    arrays |= {"pts": pts.copy(), "checksum": checksums.astype(np.uint32), "key": keys.astype(bool)}
    ticks = (arrays["pts"] - arrays["pts"][0]).astype(np.float64)
    arrays["time"] = ticks * facts["time_base"][0] / facts["time_base"][1]
    return facts, arrays


def scan_frames(file: BinaryIO) -> Iterator[Any]:
    """Yield the values of a film's frames and, at last, its facts; runs in the child.

    Yields:
        in turn float16 (n, len(NAMES)) and int64 (n, 3), time stamp, checksum and whether it is a keyframe, for n
        frames; at the end a mapping.

    Raises:
        DataError: the film is damaged or past the limits, or ends before its announced end.
    """
    measured, bars, to_small, to_luma = FrameValues(), Bars(), VideoReformatter(), VideoReformatter()
    facts: dict[str, Any] = {}
    rows: list[tuple[float, ...]] = []
    stamps: list[tuple[int, int, bool]] = []
    times: list[float] = []
    interlaced = 0
    check_whole(file)
    with open_video(file, None, first=True) as (container, stream):
        for number, (frame, shape) in enumerate(checked_frames(stream, container.demux(stream), None)):
            if not number:
                facts = _facts(frame, shape) | {
                    "notes": notes_of(frame, shape, stream, other_films(container, stream)),
                    "stream": stream.index,
                    "other_streams": other_films(container, stream),
                    "audio": bool(container.streams.audio),
                }
                small = _small_size(frame, shape)
            rows.append(measured.measure(_small_pixels(frame, small, to_small)))
            assert frame.pts is not None  # a frame without a time is refused
            stamps.append((frame.pts, frame_checksum(frame), frame.key_frame))
            times.append(frame.time)
            interlaced += frame.interlaced_frame
            if bars.wants(number):
                left, right, top, bottom = shape.crop
                luma = to_luma.reformat(frame, format="gray").to_ndarray()
                bars.add(luma[top : frame.height - bottom, left : frame.width - right])
            if len(rows) == PART:
                yield from _part(rows, stamps)
                rows, stamps = [], []
        if not times:
            raise DataError("the video stream holds no frame that decodes")
        if rows:
            yield from _part(rows, stamps)

        nominal = float(stream.average_rate) if stream.average_rate else None
        base = frame.time_base
        assert base is not None
        fps, vfr = frame_rate(from_zero(times), nominal, float(base))
        announced = float(container.duration or 0) / 1e6
        ends = times[-1] - min(times[0], 0.0) + 1 / fps
        if announced > ends + SHORTFALL + 0.02 * announced and not facts["audio"]:
            raise DataError(f"it ends after {ends:.2f} s of the {announced:.2f} s that its header announces: cut short")
        box = bars.box()
        stored = frame.width - sum(shape.crop[:2]), frame.height - sum(shape.crop[2:])
        yield facts | {
            "codec": stream.codec_context.codec.canonical_name,
            "fps": fps,
            "vfr": vfr,
            "frames": len(times),
            "duration": len(times) / fps,
            "interlaced": interlaced,
            "time_base": [base.numerator, base.denominator],
            "crop": None if box is None else shown_box(box, stored, facts),
        }


def _part(rows: list[tuple[float, ...]], stamps: list[tuple[int, int, bool]]) -> Iterator[np.ndarray]:
    """Yield the values of some frames as float16, at most its largest number, and what identifies the frames."""
    yield np.minimum(rows, np.finfo(np.float16).max).astype(np.float16)
    yield np.array(stamps, np.int64)


def shown_box(box: tuple[int, int, int, int], size: tuple[int, int], facts: dict[str, Any]) -> list[int]:
    """Return x, y, width and height of a box in the picture as shown, rounded inwards.

    Args:
        box: the same in the stored picture.
        size: width and height of the stored picture.
        facts: width, height and turn of the picture as shown.
    """
    across, down_to_across, across_to_down, down = facts["turn"]
    shown = facts["width"], facts["height"]
    square = shown[::-1] if down_to_across else shown
    x, y, width, height = box
    ends = []
    for first, last, old, new in ((x, x + width, size[0], square[0]), (y, y + height, size[1], square[1])):
        ends.append((-(-first * new // old), last * new // old))
    sides = (ends[1], ends[0]) if down_to_across else (ends[0], ends[1])
    signs = across + down_to_across, across_to_down + down
    (left, right), (top, bottom) = (
        pair if sign > 0 else (length - pair[1], length - pair[0])
        for pair, sign, length in zip(sides, signs, shown, strict=True)
    )
    return [left, top, right - left, bottom - top]


def _facts(frame: Any, shape: Shape) -> dict[str, Any]:
    """Return what the first frame tells of a film."""
    width, height = shown_size(frame, shape)
    return {
        "width": width,
        "height": height,
        "stored_width": frame.width,
        "stored_height": frame.height,
        "turn": list(turn(frame)),
        "pixel_aspect": float(shape.aspect),
        "pix_fmt": frame.format.name,
        "bit_depth": max(part.bits for part in frame.format.components),
        "transfer": HDR.get(int(frame.color_trc)),
    }


def _small_size(frame: Any, shape: Shape) -> tuple[int, int]:
    """Return (width, height) to which a stored frame is scaled, so that it is WIDTH across as it is shown."""
    width, height = shown_size(frame, Shape(shape.aspect))
    other = min(max(round(WIDTH * height / width), SMALLEST), LARGEST)
    return (other, WIDTH) if turn(frame)[1] else (WIDTH, other)


def _small_pixels(frame: Any, size: tuple[int, int], reformatter: VideoReformatter) -> np.ndarray:
    """Return a frame in standard range, scaled and not turned: uint8 (H, W, 3), RGB. All values ignore turns."""
    options: dict[str, Any] = {"width": size[0], "height": size[1], "interpolation": TO_RGB, "threads": 1}
    matrix = colour_matrix(frame)
    if matrix != RGB:
        options |= {"src_colorspace": MATRICES[matrix], "dst_colorspace": MATRICES[matrix]}
    transfer = HDR.get(int(frame.color_trc))
    if transfer is None:
        return reformatter.reformat(frame, format="rgb24", **options).to_ndarray()
    return to_standard_range(reformatter.reformat(frame, format=WIDE, **options).to_ndarray(), transfer)
