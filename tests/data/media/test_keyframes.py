"""A clip is decoded from a keyframe before it and without frames that nothing needs: bit for bit the same."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from lavie.data.media import decode, streams
from lavie.data.media.decode import decode_frames, frame_times, probe, read_frames
from lavie.data.media.encode import encode_mp4
from lavie.data.media.keyframes import last_safe_keyframe, unreferenced
from lavie.testing import SHARED
from tests.markers import requires_shared

COUNT = 48


def scenes(count: int = COUNT, height: int = 64, width: int = 96) -> np.ndarray:
    """Return frames of a texture that drifts, with noise: each is predicted from others, and no two are the same."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, : width + 4 * count]
    texture = (128 + 60 * np.sin(x / 9 + y / 5) + rng.normal(0, 20, x.shape)).clip(0, 255)
    moving = np.stack([texture[:, 3 * i :][:, :width] for i in range(count)])
    return np.repeat((moving + rng.normal(0, 4, moving.shape)).clip(0, 255)[..., None], 3, -1).astype(np.uint8)


def encode(codec, container="mp4", *, times=None, first=0, pix_fmt="yuv420p", mux=None, **options) -> bytes:
    """Return a file of `scenes` that FFmpeg encodes.

    Args:
        codec: FFmpeg's name of the encoder.
        container: FFmpeg's name of the format.
        times: when each frame is shown, in ms; None: 24 frames per second.
        first: the time stamp of the first frame, in 1/24 s, without `times`.
        pix_fmt: FFmpeg's name of the pixel format.
        mux: options of the muxer.
        options: options of the encoder.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=mux or {}) as out:
        stream = out.add_stream(codec, rate=24, options={k.replace("_", "-"): str(v) for k, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = 64, 96, pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels in enumerate(scenes()):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (
                (first + i, Fraction(1, 24)) if times is None else (times[i], Fraction(1, 1000))
            )
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


UNEVEN = np.cumsum(np.random.default_rng(1).integers(20, 90, COUNT)).tolist()
HEVC = "open-gop=0:log-level=none:keyint=24:b-adapt=0:scenecut=0"
X264 = {"preset": "medium", "g": 12, "sc_threshold": 0}
CLOSED = {
    "h264, B-frames": lambda: encode("libx264", **X264),
    "h264, no B-frames": lambda: encode("libx264", **X264 | {"bf": 0}),
    "h264, matroska": lambda: encode("libx264", "matroska", **X264),
    "h264, variable rate": lambda: encode("libx264", times=UNEVEN, **X264),
    "h264, slices": lambda: encode("libx264", **X264, slices=4),
    "h264, negative offsets": lambda: encode("libx264", mux={"movflags": "negative_cts_offsets"}, **X264),
    "h264, fragments": lambda: encode("libx264", mux={"movflags": "frag_keyframe+empty_moov"}, **X264),
    "h264, interlaced": lambda: encode("libx264", **X264, flags="+ilme+ildct", x264_params="tff=1"),
    "vp8": lambda: encode("libvpx", "webm", g=12, deadline="realtime"),
    "vp9": lambda: encode("libvpx-vp9", "webm", g=12, deadline="realtime", cpu_used=8),
    "vp9, hidden frames": lambda: encode("libvpx-vp9", "webm", g=12, lag_in_frames=16, auto_alt_ref=1, cpu_used=4),
}
OTHER = {
    "h264, open groups": lambda: encode("libx264", **X264, x264_params="open-gop=1:bframes=3"),
    "h264, gradual refresh": lambda: encode("libx264", **X264, x264_params="intra-refresh=1"),
    "h264, one group": lambda: encode("libx264", **X264 | {"g": 250}),
    "h264, first frames cut off": lambda: encode("libx264", first=-7, mux={"avoid_negative_ts": "0"}, **X264),
    "vp8, hidden frames": lambda: encode("libvpx", "webm", g=12, auto_alt_ref=1, lag_in_frames=16, deadline="good"),
    "mpeg4": lambda: encode("mpeg4", g=12, bf=2),
    "mjpeg": lambda: encode("mjpeg", "matroska", pix_fmt="yuvj420p"),
    "hevc, open groups": lambda: encode("libx265", g=12, x265_params="open-gop=1:log-level=none:keyint=12"),
    "h264, no pyramid": lambda: encode("libx264", **X264 | {"bf": 5}, x264_params="b-pyramid=none:b-adapt=0"),
    "h264, pyramid": lambda: encode("libx264", **X264 | {"bf": 7, "g": 30}, x264_params="b-pyramid=normal:b-adapt=0"),
    "hevc": lambda: encode("libx265", x265_params=f"{HEVC}:bframes=4:b-pyramid=1"),
    "hevc, no pyramid": lambda: encode("libx265", x265_params=f"{HEVC}:bframes=4:b-pyramid=0"),
    "hevc, layers": lambda: encode("libx265", x265_params=f"{HEVC}:bframes=4:temporal-layers=3"),
}


def decoding_starts(data: bytes, frames: int) -> list[int]:
    """Return the packet from which decoding begins for each frame of a video."""
    with streams.open_video(data) as (container, stream):
        packets = [p for p in container.demux(stream) if p.size]
        context = stream.codec_context
        header = bytes(context.extradata or b"")
        return [last_safe_keyframe(packets, context.codec.canonical_name, header, frames, n) for n in range(frames)]


def encoded_or_skipped(encoder) -> bytes:
    """Return the file that an encoder makes; skip the test where this FFmpeg lacks the codec."""
    try:
        return encoder()
    except (av.codec.codec.UnknownCodecError, av.FFmpegError) as error:
        pytest.skip(f"this FFmpeg does not encode it: {error}")


@pytest.mark.parametrize("name", (*CLOSED, *OTHER))
def test_any_clip_is_that_of_a_full_decode(name):
    data = encoded_or_skipped((CLOSED | OTHER)[name])
    frames = probe(data).frames
    whole = decode_frames(data, range(frames))
    steps = [np.array([n, n, n + 1, n + 5]) for n in range(frames - 5)]
    for wanted in [*steps, np.array([frames - 1]), np.array([20, frames - 1])]:
        found = list(read_frames(data, wanted, frames))
        np.testing.assert_array_equal(found, whole[wanted], f"{name}, {wanted}")


@pytest.mark.parametrize("name", CLOSED)
def test_decoding_begins_at_the_keyframe_before_the_clip(name):
    data = encoded_or_skipped(CLOSED[name])
    assert probe(data).frames == COUNT
    assert decoding_starts(data, COUNT) == [n // 12 * 12 for n in range(COUNT)]


def test_decoding_begins_at_the_start_where_a_keyframe_does_not_reset():
    assert decoding_starts(encoded_or_skipped(OTHER["h264, gradual refresh"]), COUNT) == [0] * COUNT
    assert decoding_starts(encoded_or_skipped(OTHER["h264, open groups"]), COUNT) == [0] * COUNT
    data = encoded_or_skipped(OTHER["h264, first frames cut off"])
    frames = probe(data).frames
    assert frames < COUNT
    assert decoding_starts(data, frames) == [0] * frames


def test_a_count_that_is_not_the_packets_means_the_start():
    assert decoding_starts(encoded_or_skipped(CLOSED["h264, B-frames"]), COUNT - 1) == [0] * (COUNT - 1)


@pytest.mark.parametrize("wrong", (1, 7, 13, 30))
@pytest.mark.parametrize("name", ("h264, B-frames", "vp9", "h264, open groups"))
def test_a_late_decoder_that_shows_something_else_begins_again(monkeypatch, name, wrong):
    data = encoded_or_skipped((CLOSED | OTHER)[name])
    whole = decode_frames(data, range(COUNT))
    monkeypatch.setattr(decode, "last_safe_keyframe", lambda *args: wrong)
    np.testing.assert_array_equal(list(read_frames(data, [wrong + 3, 40], COUNT)), whole[[wrong + 3, 40]])


def packets(*contents: tuple[bytes, bool]) -> list[av.Packet]:
    """Return packets, shown one after another, of the given bytes; the flags tell the keyframes."""
    result = []
    for number, (data, key) in enumerate(contents):
        packet = av.Packet(data)
        packet.pts, packet.is_keyframe = number, key
        result.append(packet)
    return result


def unit(kind: int, content: bytes = b"x") -> bytes:
    """Return an H.264 NAL unit of a type, with its length before it."""
    return (len(content) + 1).to_bytes(4, "big") + bytes([kind]) + content


def test_parameter_sets_between_are_known_or_repeated():
    avcc = b"\x01\x64\x00\x1f\xff" + unit(7, b"sps") + unit(8, b"pps")
    other = unit(7, b"new")

    def start(before: bytes, at: bytes) -> int:
        return last_safe_keyframe(packets((before, True), (unit(1), False), (at, True)), "h264", avcc, 3, 2)

    assert start(unit(5), unit(5)) == 2
    assert start(unit(7, b"sps") + unit(5), unit(5)) == 2
    assert start(other + unit(5), unit(5)) == 0
    assert start(other + unit(5), other + unit(5)) == 2
    assert start(unit(5), unit(1)) == 0  # a keyframe by the container's word alone
    assert start(unit(5), unit(5) + unit(1)) == 0
    assert start(unit(5), unit(5)[:-1]) == start(unit(5), b"\0\0\0\0") == 0  # cut short
    assert last_safe_keyframe(packets((unit(5), True), (unit(5), True)), "h264", b"", 2, 1) == 0


def test_two_frames_of_one_time_mean_the_start():
    twins = packets((unit(5), True), (unit(5), True), (unit(5), True))
    assert last_safe_keyframe(twins, "h264", b"\x01\x64\x00\x1f\xff", 3, 2) == 2
    twins[1].pts = 0
    assert last_safe_keyframe(twins, "h264", b"\x01\x64\x00\x1f\xff", 3, 2) == 0


def test_damage_before_the_clip_is_left_to_the_checksum():
    """What is decoded is right; that other frames of the file are damaged, its hash tells."""
    data = bytearray(encode_mp4(scenes(), 24))
    whole = decode_frames(bytes(data), range(COUNT))
    with streams.open_video(bytes(data)) as (container, stream):
        second = [p.pos for p in container.demux(stream) if p.size][1]
    data[second + 8 : second + 40] = bytes(32)
    found = list(read_frames(bytes(data), [40, 41], COUNT))
    np.testing.assert_array_equal(found, whole[[40, 41]])


THRIFTY = ("h264, B-frames", "h264, no pyramid", "h264, pyramid", "hevc", "hevc, no pyramid", "hevc, layers")
"""Files that hold frames from which nothing is predicted."""


def decoded_frames(monkeypatch, data: bytes, wanted, *, skip: bool) -> tuple[list[np.ndarray], int]:
    """Return the wanted frames of a video, and how many came out of the decoder for them."""
    came = []
    checked = decode.checked_frames

    def counting(*args):
        for found in checked(*args):
            came.append(found)
            yield found

    with monkeypatch.context() as patched:
        patched.setattr(decode, "checked_frames", counting)
        return list(read_frames(data, wanted, COUNT, skip=skip)), len(came)


@pytest.mark.parametrize("name", THRIFTY)
def test_frames_that_nothing_needs_are_not_decoded(monkeypatch, name):
    data = encoded_or_skipped((CLOSED | OTHER)[name])
    whole = decode_frames(data, range(COUNT))
    rng = np.random.default_rng(0)
    fewer = 0
    for share in (0.05, 0.1, 0.2, 0.4) * 3:
        wanted = np.flatnonzero(rng.random(COUNT) < share)
        wanted = wanted if len(wanted) else np.array([COUNT // 2])
        (found, few), (plain, all_) = (decoded_frames(monkeypatch, data, wanted, skip=skip) for skip in (True, False))
        np.testing.assert_array_equal(found, whole[wanted])
        np.testing.assert_array_equal(plain, whole[wanted])
        assert few <= all_
        fewer += few < all_
    assert fewer >= 8


def test_what_may_be_skipped_is_told_by_the_codecs_syntax():
    avcc = b"\x01\x64\x00\x1f\xff"
    h264 = packets((unit(0x65), True), (unit(0x01), False), (unit(0x21), False), (unit(0x06) + unit(0x01), False))
    assert unreferenced(h264, "h264", avcc) == [False, True, False, True]
    # One slice that is referred to, a unit cut short, no picture, no header.
    doubtful = packets((unit(0x01) + unit(0x21), False), (unit(0x01)[:-1], False), (unit(0x06), False))
    assert unreferenced(doubtful, "h264", avcc) == [False] * 3
    assert unreferenced(h264, "h264", b"") == [False] * 4
    assert unreferenced(h264, "vp9", avcc) == [False] * 4

    def picture(kind: int, layer: int) -> tuple[bytes, bool]:
        """Return an H.265 NAL unit of a type and a sub-layer, with its length before it."""
        return (3).to_bytes(4, "big") + bytes([kind << 1, layer + 1, 0]), False

    hvcc = b"\x01" + bytes(20) + b"\xff"
    idr, trail_r, trail_n, rasl_n, vcl_16 = picture(19, 0), picture(1, 0), picture(0, 0), picture(8, 0), picture(16, 0)
    flat = packets(idr, trail_r, trail_n, rasl_n, vcl_16)
    assert unreferenced(flat, "hevc", hvcc) == [False, False, True, True, False]
    # Pictures of a higher sub-layer may be predicted from those of a lower one.
    layers = packets(idr, trail_n, picture(0, 1), picture(1, 1))
    assert unreferenced(layers, "hevc", hvcc) == [False, False, True, False]


def test_a_decoder_that_leaves_out_a_wanted_frame_begins_again(monkeypatch):
    data = encoded_or_skipped(CLOSED["h264, B-frames"])
    whole = decode_frames(data, range(COUNT))
    monkeypatch.setattr(decode, "_skipping", lambda stream, packets, skipped: [*packets[:-2], packets[-1]])
    for wanted in ([2, 3, 4, 5], [14, 30]):
        np.testing.assert_array_equal(list(read_frames(data, wanted, COUNT)), whole[wanted])


@requires_shared
@pytest.mark.parametrize("name", ("bigbuckbunny.mp4", "flower.mp4", "friday.mp4", "frog.mp4", "nasa_13013.mp4"))
def test_clips_of_real_videos(name):
    data = (SHARED / "assets/videos" / name).read_bytes()
    frames = len(frame_times(data))
    for wanted in (sorted({frames // 3, frames // 3 + 2, frames // 2}), range(frames // 4, frames // 2, 4)):
        np.testing.assert_array_equal(list(read_frames(data, wanted, frames)), list(read_frames(data, wanted)))
