"""The conversion of GIFs, which shards do not hold because decoders for them are few and slow."""

import io

from PIL import Image

from ..media.decode import frame_times, read_frames
from ..media.encode import encode_mp4
from ..media.image import decode_image


def convert_gif(data: bytes, frames: int, fps: float | None, vfr: bool) -> bytes:
    """Convert a GIF to a lossless H.264 mp4 whose frames are shown at the same times, or to a png if it has one frame.

    Args:
        data: the bytes of the GIF.
        frames: its number of frames, as `probe` found it; so too the next two.
        fps: its average frames per second; None if it has one frame.
        vfr: whether its frame rate varies.
    """
    if frames == 1:
        file = io.BytesIO()
        Image.fromarray(decode_image(data)).save(file, "png")
        return file.getvalue()
    if vfr:
        return encode_mp4(read_frames(data, range(frames)), times=frame_times(data), lossless=True)
    return encode_mp4(read_frames(data, range(frames)), fps, lossless=True)
