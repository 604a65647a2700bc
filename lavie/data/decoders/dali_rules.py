"""Decide which clips DALI may decode, and keep its known traps away from it.

DALI 2.4 as a decoder of untrusted files:

- aborts the process, or hangs, on headers that it cannot read;
- counts packets where frames are meant;
- picks the video stream of a file by other rules than FFmpeg;
- takes the size of the frames from the container's header;
- knows no rotation, and takes every pixel as square;
- knows no transparency and no high dynamic range;
- converts every colour by BT.601's matrix.

So a clip goes to it only if two looks show a plain case, and PyAV decodes all others:

1. `dali_serves`: the sample's entry in the index, without reading the file.
2. `clip_for_dali`: the file's header, its packets and its first frame.
"""

import io
from fractions import Fraction
from typing import Literal

import av
import numpy as np

from ..media.formats import DEMUXERS, sniff
from ..media.shown import BT601, BT709, HDR, SQUARE, UPRIGHT, Shape, colour_matrix, shown_size, turn
from ..media.streams import NO_CROP, container_crop, has_hidden_alpha, open_video, pixel_aspect
from ..shards.index_file import Sample
from .clip import EncodedClip

Device = Literal["cpu", "gpu"]
"""What DALI decodes on."""
CODECS: dict[Device, tuple[str, ...]] = {"cpu": ("vp8", "vp9"), "gpu": ("h264", "hevc", "vp8", "vp9")}
"""Codecs that DALI is given, by FFmpeg's names. On a CPU, DALI 2.4 has neither H.264 nor HEVC; on a GPU, AV1 and MPEG-4
are left out because not every video decoder has them."""
GPU_SIDES = 144, 4096
"""Smallest and largest side in pixels that every NVDEC since Ampere takes for all four codecs."""
CONVERTED = (BT709, 5, BT601)
"""The colour matrices that DaliDecoder converts by, as numbers of ITU-T H.273; 5 and 6 are BT.601 for 625 and 525
lines. One that the file does not name is guessed as for PyAV."""
MAX_FILE = 64 << 20
"""Largest file in bytes that a worker hands to the trainer: each slot of a worker's queue is as large as the largest
file, so memory grows with it."""


def dali_serves(sample: Sample, device: Device) -> str | None:
    """Return why the index forbids to give a sample to DALI, as the end of a sentence; None if it does not."""
    if sample.kind != "video":
        return "not a video"
    if sample.codec not in CODECS[device]:
        return f"DALI does not decode {sample.codec} on the {device.upper()}"
    if sample.vfr or not sample.fps:
        return "its frame rate varies"
    if sample.size > MAX_FILE:
        return f"its file is larger than {MAX_FILE >> 20} MiB"
    if device == "gpu":
        (low, high), sides = GPU_SIDES, (sample.width, sample.height)
        if min(sides) < low or max(sides) > high:
            return f"a side is shorter than {low} or longer than {high} pixels"
        if any(side % 2 for side in sides):
            return "a side has an odd number of pixels"
    return None


def clip_for_dali(
    sample: Sample, data: bytes, indices: np.ndarray, u: float, v: float, device: Device
) -> EncodedClip | str:
    """Return a clip ready for DALI, or why DALI must not have it, as the end of a sentence.

    This costs the decoding of one frame.

    Args:
        sample: the entry in the index.
        data: the verified bytes of the sample.
        indices: the frames of the clip, int64 (F,), ascending.
        u: where frames are cut across, in [0, 1].
        v: where frames are cut down, in [0, 1].
        device: what DALI decodes on.

    Raises:
        DataError: if the file cannot be opened, or its first frame not be decoded.
    """
    if reason := dali_serves(sample, device):
        return reason

    if sniff(data) == "avi":
        return "it is an avi, whose times are guessed"

    # DALI counts packets, so every packet must be one frame that is shown.
    with open_video(data) as (container, stream):
        if len(container.streams.video) > 1:
            return "it has several video streams"
        if has_hidden_alpha(stream):
            return "it is transparent"
        packets, first = 0, None
        for packet in container.demux(stream):
            if packet.is_discard or packet.is_corrupt or (packet.size and packet.pts is None):
                return "not every packet is a frame to show"
            if not packets and not packet.is_keyframe:
                return "it does not start at a keyframe"
            packets += packet.size > 0
            if first is None:
                first = next(iter(packet.decode()), None)
        if container_crop(stream) != NO_CROP:
            return "its container crops it"
        aspect = pixel_aspect(stream)
    if first is None or packets != sample.frames:
        return "not every packet is a frame to show"

    # The first frame tells what DALI would assume without looking.
    if reason := _peculiarity(first, aspect, (sample.width, sample.height)):
        return reason
    if (announced := _announced_size(data)) != (first.width, first.height):
        return f"its header announces {announced[0]} x {announced[1]} pixels, its frames are of another size"
    if abs(aspect - 1) > SQUARE:
        return "its pixels are not square"
    return EncodedClip(
        key=sample.key,
        data=data,
        indices=indices,
        height=sample.height,
        width=sample.width,
        bt709=colour_matrix(first) == BT709,
        u=u,
        v=v,
    )


def _announced_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels by the container's header, as DALI takes them; (0, 0) if it cannot be read.

    All decoders are switched off, since FFmpeg would correct the header's size by what it decodes.
    """
    options = {"codec_whitelist": "none"}
    try:
        with av.open(io.BytesIO(data), "r", format=DEMUXERS[sniff(data)], options=options) as container:
            context = container.streams.video[0].codec_context
            return context.width, context.height
    except av.FFmpegError:
        return 0, 0


def _peculiarity(frame: av.VideoFrame, aspect: Fraction, size: tuple[int, int]) -> str | None:
    """Return what about a decoded frame DALI would get wrong, as the end of a sentence; None if nothing.

    Args:
        frame: the first frame.
        aspect: the width of its pixels over their height.
        size: (width, height) in pixels by the index.
    """
    if turn(frame) != UPRIGHT:
        return "it is to be turned upright"
    if shown_size(frame, Shape(aspect)) != size:
        return "its frames are not of the size that the index says"
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        return f"its pixels are {frame.format.name}, not 8-bit 4:2:0"
    if frame.interlaced_frame:
        return "it is interlaced"
    if int(frame.color_trc) in HDR:
        return "its dynamic range is high"
    if (matrix := colour_matrix(frame)) not in CONVERTED:
        return f"its colour matrix is number {matrix} of H.273, neither BT.601 nor BT.709"
    return None
