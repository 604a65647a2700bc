"""The checksum of a decoded frame, by which frames of a clip are told to be those of its film, bit for bit."""

import zlib

import av
import numpy as np


def frame_checksum(frame: av.VideoFrame) -> int:
    """Return the CRC-32 of a frame's samples as they are stored, 0 to 2^32 - 1; padding of lines does not count.

    Decoders of one codec give the same samples on every machine, so that a checksum made in the scan of a film holds
    for clips that are cut elsewhere.
    """
    checksum = 0
    for number, plane in enumerate(frame.planes):
        width = row_bytes(frame.format, number, plane.width)
        samples = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
        if plane.line_size > width:  # a palette has no lines
            lines = samples[: plane.line_size * plane.height].reshape(plane.height, plane.line_size)
            samples = np.ascontiguousarray(lines[:, :width])
        checksum = zlib.crc32(samples, checksum)
    return checksum


def row_bytes(format: av.VideoFormat, number: int, width: int) -> int:
    """Return the bytes of a line of plane `number`, which has `width` samples of each of its components."""
    parts = [part for part in format.components if part.plane == number]
    if len(parts) == len(format.components):  # packed: components may share a byte, or a line half of one
        return -(-width * format.padded_bits_per_pixel // 8)
    return width * sum(-(-part.bits // 8) for part in parts) or width
