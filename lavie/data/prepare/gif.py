"""A shard holds no GIF, whose decoders are few and slow: it becomes an mp4, or a png if it is one picture."""

import io

from PIL import Image

from ..media.decode import decode_frames, frame_times, read_frames
from ..media.encode import encode_mp4


def convert_gif(data: bytes, frames: int, fps: float, vfr: bool) -> bytes:
    """The mp4 (H.264, bit-exact frames, the same times) or png that stands for a GIF, given what `probe` found."""
    if frames == 1:
        file = io.BytesIO()
        Image.fromarray(decode_frames(data, [0])[0]).save(file, "png")
        return file.getvalue()
    if vfr:
        return encode_mp4(read_frames(data, range(frames)), times=frame_times(data), lossless=True)
    return encode_mp4(read_frames(data, range(frames)), fps, lossless=True)
