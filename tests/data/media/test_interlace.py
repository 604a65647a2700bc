"""Interlaced video comes out as frames of one moment, at the same times, and from any place in the file."""

import io
from fractions import Fraction

import av
import av.filter
import numpy as np
import pytest

from lavie.data.media.decode import decode_frames, frame_times, probe, read_frames
from tests.data.media.videos import encode, with_matrix

HEIGHT, WIDTH, COUNT = 96, 128, 12
STEP, DARK, LIGHT = 3, 40, 200
"""Pixels by which a bar moves from one moment to the next, and the levels beside and in it."""


def moments(count: int) -> np.ndarray:
    """Return a bar that moves to the right: uint8 (count, HEIGHT, WIDTH, 3)."""
    frames = np.full((count, HEIGHT, WIDTH, 3), DARK, np.uint8)
    for number, frame in enumerate(frames):
        frame[:, 8 + STEP * number :][:, :24] = LIGHT
    return frames


def interlaced(codec: str, container: str, first: str, options: dict[str, str]) -> bytes:
    """Return a video of COUNT frames at 25 per second, each of which holds two moments line by line.

    first: the field of the first moment, top or bottom: the even lines, or the odd ones.
    """
    woven = moments(2 * COUNT)[::2]
    later = 1 if first == "top" else 0
    woven[:, later::2] = moments(2 * COUNT)[1::2, later::2]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        graph = av.filter.Graph()
        source = graph.add_buffer(width=WIDTH, height=HEIGHT, format="yuv420p", time_base=Fraction(1, 25))
        # FFmpeg's own mark of which field comes first, which PyAV has no attribute for.
        mark, sink = graph.add("setfield", f"{first[0]}ff"), graph.add("buffersink")
        graph.link_nodes(source, mark, sink).configure()
        for number, array in enumerate(woven):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            source.push(frame)
            out.mux(stream.encode(sink.pull()))
        out.mux(stream.encode())
    return file.getvalue()


def combing(frame: np.ndarray) -> float:
    """Return the mean of the second difference from line to line, in levels; 0 for upright edges."""
    luma = frame[..., 1].astype(float)
    return float(np.abs(2 * luma[1:-1] - luma[:-2] - luma[2:]).mean())


COMBED = 2 * STEP * 2 * (LIGHT - DARK) / WIDTH
"""What `combing` gives for woven frames: beside both edges of the bar, STEP pixels differ from the lines around."""

MPEG2 = {"flags": "+ilme+ildct", "qmin": "1", "qmax": "1", "g": "4"}


def h264(first: str) -> dict[str, str]:
    """Return x264's options for interlaced video with few keyframes apart."""
    return {"qp": "0", "x264-params": f"{first[0]}ff=1:keyint=4:bframes=2:scenecut=0"}


@pytest.mark.parametrize("first", ("top", "bottom"))
@pytest.mark.parametrize(
    "codec, container", (("libx264", "mp4"), ("libx264", "matroska"), ("mpeg2video", "mov"), ("mpeg2video", "matroska"))
)
def test_combing_is_gone_and_times_stay(codec, container, first):
    data = interlaced(codec, container, first, h264(first) if codec == "libx264" else MPEG2)
    with av.open(io.BytesIO(data)) as file:
        stored = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(stored) == COUNT and all(abs(combing(frame) - COMBED) < 0.05 * COMBED for frame in stored)

    frames = decode_frames(data, range(COUNT))
    assert max(map(combing, frames)) < 0.02 * COMBED
    # Only at the ends a bar's neighbours are guessed, where the video has no frame before or after.
    error = np.abs(frames.astype(int) - moments(2 * COUNT)[::2])
    assert error[:, :, :, 1].mean() < 1.5
    info = probe(data)
    assert (info.frames, info.fps, info.vfr, info.width, info.height) == (COUNT, 25, False, WIDTH, HEIGHT)
    np.testing.assert_allclose(frame_times(data, COUNT), np.arange(COUNT) / 25, atol=1e-3)
    assert any(note.startswith(f"interlaced: {COUNT} of {COUNT} frames") for note in info.notes)


@pytest.mark.parametrize("codec", ("libx264", "mpeg2video"))
def test_every_frame_is_the_same_wherever_decoding_began(codec):
    data = interlaced(
        codec, "mp4" if codec == "libx264" else "mov", "top", h264("top") if codec == "libx264" else MPEG2
    )
    whole = decode_frames(data, range(COUNT))
    for number in range(COUNT):
        np.testing.assert_array_equal(next(read_frames(data, [number], COUNT)), whole[number])
    np.testing.assert_array_equal(list(read_frames(data, [4, 5, 5, 9], COUNT)), whole[[4, 5, 5, 9]])


def test_frames_are_those_of_one_filter_over_the_whole_video():
    """The reference is FFmpeg's filter over all frames at once."""
    data = interlaced("mpeg2video", "matroska", "top", MPEG2)
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.video[0]
        graph = av.filter.Graph()
        source, sink = graph.add_buffer(template=stream, time_base=stream.time_base), graph.add("buffersink")
        graph.link_nodes(source, graph.add("bwdif", "mode=send_frame"), sink).configure()
        expected = []
        for frame in [*file.decode(stream), None]:
            source.push(frame)
            while True:
                try:
                    expected.append(sink.pull().to_ndarray(format="yuv420p"))
                except (av.BlockingIOError, av.EOFError):
                    break
    grey = [frame[:HEIGHT].astype(float) for frame in expected]
    found = decode_frames(data, range(COUNT))
    assert len(grey) == COUNT
    for luma, frame in zip(grey, found, strict=True):
        # Grey frames: R = G = B = (Y - 16) 255 / 219.
        assert np.abs(frame[..., 1] - ((luma - 16) * 255 / 219).clip(0, 255)).max() <= 3


def test_a_turned_interlaced_video():
    data = interlaced("libx264", "mp4", "top", h264("top"))
    turned = with_matrix(data, (0, 1, -1, 0))
    np.testing.assert_array_equal(decode_frames(turned, [3])[0], np.rot90(decode_frames(data, [3])[0], -1))


@pytest.mark.parametrize("format", ("yuv420p", "yuv422p10le"))
@pytest.mark.parametrize("tags", ({"colorspace": 1, "color_range": 2}, {"colorspace": 9, "color_trc": 18}, {}))
def test_colours_are_those_of_the_same_video_without_the_mark(format, tags):
    """What the file says of its colours goes through the filter: a picture that stands still keeps its pixels."""
    colours = np.repeat([[220, 30, 40], [20, 200, 90], [30, 60, 240], [120, 120, 120]], 32, axis=0).astype(np.uint8)
    still = [np.tile(colours, (HEIGHT, 1, 1))] * 3
    marked = encode(still, format=format, tags=tags, options={"qp": "0", "x264-params": "interlaced=1"})
    plain = encode(still, format=format, tags=tags, options={"qp": "0"})
    assert any(note.startswith("interlaced") for note in probe(marked).notes)
    found, wanted = decode_frames(marked, range(3)).astype(int), decode_frames(plain, range(3))
    # Another matrix or range would differ by ten levels and more; x264 differs by two in its two modes.
    assert np.abs(found - wanted).max() <= 2
