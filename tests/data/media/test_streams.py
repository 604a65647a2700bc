"""The film of a file is the stream that the ffmpeg command would take."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from lavie.data.media.decode import decode_frames, probe
from lavie.errors import DataError
from tests.data.media.videos import COVER, DEFAULT, NONE, encode, several

STILL = ("mjpeg", (120, 160), 1, NONE)


@pytest.mark.parametrize("container", ("mp4", "mov", "matroska"))
@pytest.mark.parametrize(
    "streams, size",
    (
        # A still without the mark of a cover, before the film.
        ((STILL, ("libx264", (96, 128), 24, DEFAULT)), (128, 96)),
        # The default one of two films, though it is smaller and comes later.
        ((("libx264", (96, 128), 24, NONE), ("libx264", (48, 64), 24, DEFAULT)), (64, 48)),
        # The larger one of two that are alike.
        ((("libx264", (48, 64), 24, DEFAULT), ("libx264", (96, 128), 24, DEFAULT)), (128, 96)),
        ((("libx264", (96, 128), 24, DEFAULT), ("libx264", (48, 64), 24, DEFAULT)), (128, 96)),
    ),
)
def test_the_film_is_that_of_ffmpeg(container, streams, size):
    data = several(container, *streams)
    info = probe(data)
    assert (info.codec, info.frames, (info.width, info.height)) == ("h264", 24, size)
    assert decode_frames(data, [0, 23]).shape == (2, size[1], size[0], 3)
    (note,) = (note for note in info.notes if note.startswith("several video streams"))
    assert f"h264 {size[0]} x {size[1]}, and not " in note
    # libav's other choice, which has no say on size, agrees where one stream alone is the default.
    if streams[0][3] != streams[1][3]:
        with av.open(io.BytesIO(data)) as opened:
            best = opened.streams.best("video")
            assert (best.width, best.height) == size


@pytest.mark.parametrize("mark, named", ((COVER, False), (DEFAULT, True)))
def test_a_cover_or_a_still_is_not_the_film_even_if_it_is_larger_and_the_default(mark, named):
    data = several("mp4", ("mjpeg", (240, 320), 1, mark), ("libx264", (48, 64), 8, NONE))
    info = probe(data)
    assert (info.codec, info.frames, info.width) == ("h264", 8, 64)
    assert any("and not mjpeg 320 x 240" in note for note in info.notes) == named


def test_a_cover_alone_is_no_video():
    with pytest.raises(DataError, match="no video stream among its 1 streams"):
        probe(several("mp4", ("mjpeg", (240, 320), 1, COVER)))


def test_a_change_of_size_is_refused_everywhere():
    """Two sizes of one stream, as an adaptive stream has them."""
    file, number = io.BytesIO(), 0
    with av.open(file, "w", format="webm") as out:
        stream = out.add_stream("libvpx-vp9", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for height, width in ((64, 96), (128, 192)):
            encoder = av.CodecContext.create("libvpx-vp9", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, 8), Fraction(8)
            encoder.options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
            packets = []
            for _ in range(8):
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 10 * number, np.uint8), format="rgb24")
                frame.pts, frame.time_base, number = number, Fraction(1, 8), number + 1
                packets += encoder.encode(frame)
            for packet in packets + encoder.encode():
                packet.stream = stream
                out.mux(packet)
    for use in (probe, lambda data: decode_frames(data, range(16))):
        with pytest.raises(DataError, match=r"the frame size changes .* from 96 x 64 to 192 x 128 pixels at frame 8"):
            use(file.getvalue())


def test_every_frame_with_flipped_bits_is_called_damaged():
    """FFmpeg conceals what it cannot decode, so that its flag is the only sign."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), np.uint8)
    data = encode(noise, options={"g": "4", "bf": "0"})
    with av.open(io.BytesIO(data)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    found = 0
    for position, size in packets:
        damaged = bytearray(data)
        for place in range(position + size // 2, position + size // 2 + 24):
            damaged[place] ^= 0xFF
        try:
            probe(bytes(damaged))
        except DataError as error:
            found += "frame" in str(error) and "is damaged" in str(error)
    assert found >= len(packets) // 2
