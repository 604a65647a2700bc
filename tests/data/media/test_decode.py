"""Decoding is exact by frame number and by time, and every damaged or hostile file is a DataError."""

import io
from contextlib import suppress

import av
import numpy as np
import pytest
from PIL import Image

from lavie.data.media import decode, formats
from lavie.data.media.decode import decode_frames, frame_times, probe, read_frames
from lavie.data.media.encode import encode_mp4
from lavie.data.media.formats import sniff
from lavie.data.media.image import decode_image
from lavie.errors import DataError
from lavie.testing import SHARED
from tests.data.media.frames import moving_frames, png
from tests.data.media.videos import encode, with_matrix
from tests.markers import requires_shared

VFR_TIMES = np.array([0, 0.04, 0.08, 0.2, 0.21, 0.4, 0.5, 0.54, 0.6, 1.0])


def b_frame_count(data: bytes) -> int:
    """Return how many frames of a video are B-frames."""
    with av.open(io.BytesIO(data)) as container:
        return sum(int(frame.pict_type) == 3 for frame in container.decode(video=0))


def reference_frames(data: bytes) -> np.ndarray:
    """Decode a video by FFmpeg with its default conversion of colours: uint8 (F, H, W, 3)."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("level", (16, 60, 128, 180, 235))
def test_colours_are_converted_without_a_bias(level):
    """Flat patches of every luma and of random chroma, stored losslessly, beside BT.601 in float64."""
    rng = np.random.default_rng(level)
    u, v = rng.integers(80, 176, (2, 4, 5))
    planes = [np.full((64, 80), level), u.repeat(8, 0).repeat(8, 1), v.repeat(8, 0).repeat(8, 1)]
    packed = np.concatenate([plane.reshape(-1) for plane in planes]).astype(np.uint8).reshape(96, 80)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 80, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(packed, format="yuv420p")))
        container.mux(stream.encode())
    y, cb, cr = (level - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224
    truth = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 255)
    centres = decode_frames(file.getvalue(), [0])[0, 8::16, 8::16]
    np.testing.assert_allclose(centres, truth, atol=0.6)


@pytest.mark.parametrize("indices", ([0], [19], [0, 19], [3, 4, 5], [1, 6, 6, 17], list(range(20))))
def test_frames_by_number_are_those_of_a_full_decode_through_b_frames(indices):
    source = moving_frames(20)
    data = encode_mp4(source, 24)
    assert b_frame_count(data) > 0
    frames = decode_frames(data, indices)
    assert frames.dtype == np.uint8
    np.testing.assert_allclose(frames.astype(int), reference_frames(data)[indices], atol=3)
    # Levels of neighbours differ by 10.
    np.testing.assert_allclose(frames.astype(float).mean((1, 2, 3)), source[indices].mean((1, 2, 3)), atol=3)


@pytest.mark.parametrize("fps", (8, 23.976, 24000 / 1001, 30000 / 1001, 60))
def test_constant_rate_is_found(fps):
    info = probe(encode_mp4(moving_frames(12), fps))
    assert (info.kind, info.format, info.frames, info.vfr) == ("video", "mp4", 12, False)
    assert (info.width, info.height) == (64, 48)
    assert info.fps == pytest.approx(fps, rel=1e-4)
    assert info.duration == pytest.approx(12 / fps, rel=1e-4)


def test_variable_rate_is_found_and_times_are_exact():
    data = encode_mp4(moving_frames(10), times=VFR_TIMES)
    info = probe(data)
    assert info.vfr
    assert info.fps == pytest.approx(9 / 1.0)
    np.testing.assert_allclose(frame_times(data), VFR_TIMES, atol=1e-9)
    np.testing.assert_allclose(frame_times(data, frames=10), VFR_TIMES, atol=1e-9)


def test_times_come_from_decoding_where_packets_are_not_frames():
    data = encode_mp4(moving_frames(10), times=VFR_TIMES)
    np.testing.assert_allclose(frame_times(data, frames=9), VFR_TIMES, atol=1e-9)


def test_the_first_real_video_stream_counts_and_audio_is_passed_over():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=16000)
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(audio.encode(sound))
        for pixels in moving_frames(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        container.mux(audio.encode())
    assert probe(file.getvalue()).frames == 10


def test_audio_alone_is_no_video():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
    with pytest.raises(DataError, match="no video stream among its 1 streams"):
        probe(file.getvalue())


@pytest.mark.parametrize("quarter_turns, matrix", ((1, (0, -1, 1, 0)), (2, (-1, 0, 0, -1)), (3, (0, 1, -1, 0))))
def test_rotated_video_is_shown_upright(quarter_turns, matrix):
    source = moving_frames(3)
    source[:, :16, :16] = (255, 0, 0)
    data = with_matrix(encode_mp4(source, 8, lossless=True), matrix)
    frames = decode_frames(data, range(3))
    # [a b; c d] maps (across, down) of the stored frame to the shown one; rot90 turns against the clock.
    np.testing.assert_array_equal(frames, np.rot90(source, quarter_turns, axes=(1, 2)))
    info = probe(data)
    assert (info.height, info.width) == frames.shape[1:3]


def test_frames_past_the_end_are_an_error():
    with pytest.raises(DataError, match="frame 12 was asked for"):
        decode_frames(encode_mp4(moving_frames(10), 8), [3, 12])


def test_indices_must_ascend():
    with pytest.raises(ValueError, match="ascend"):
        decode_frames(encode_mp4(moving_frames(3), 8), [2, 1])


@pytest.mark.parametrize(
    "data, message",
    (
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1", "starts with b'version https:"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "no mp4"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no mp4"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(100), "cannot be decoded"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "cannot be decoded|no video stream"),
        (b"GIF89a" + bytes(5), "cannot be decoded|no video|wanted 1 to"),
        (b"\xff\xd8\xff" + bytes(50), "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "cannot be decoded"),
    ),
)
def test_what_is_no_media_is_a_data_error(data, message):
    with pytest.raises(DataError, match=message):
        probe(data)


def test_every_truncation_is_a_data_error_or_a_shorter_video():
    data = encode_mp4(moving_frames(12), 8)
    for end in range(0, len(data) - 1, 97):
        with suppress(DataError):
            assert probe(data[:end]).frames <= 12


def test_every_mutation_is_a_data_error_or_decodes():
    data = encode_mp4(moving_frames(6), 8)
    rng = np.random.default_rng(0)
    for _ in range(150):
        mutant = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            mutant[place] ^= 1 << rng.integers(8)
        with suppress(DataError):
            probe(bytes(mutant))


def test_size_limits_hold_before_pixels_exist(monkeypatch):
    data = encode_mp4(moving_frames(2), 8)
    monkeypatch.setattr(formats, "MAX_SIDE", 63)
    with pytest.raises(DataError, match="64 x 48 pixels: wanted 1 to 63"):
        probe(data)


def test_frame_count_limit(monkeypatch):
    monkeypatch.setattr(decode, "MAX_FRAMES", 5)
    with pytest.raises(DataError, match="split the video"):
        probe(encode_mp4(moving_frames(6), 8))


def test_image_bomb_is_refused_by_its_header():
    with pytest.raises(DataError, match="9000 x 10 pixels"):
        decode_image(png(size=(9000, 10)))


def test_images_become_upright_rgb():
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", exif=exif)
    np.testing.assert_array_equal(decode_image(file.getvalue()), np.rot90(pixels, -1))
    info = probe(file.getvalue())
    assert (info.kind, info.format, info.frames, info.fps, info.width, info.height) == ("image", "png", 1, None, 6, 8)


@pytest.mark.parametrize(
    "mode, colour, rgb",
    (
        ("L", 100, (100, 100, 100)),
        ("P", (200, 90, 30), (200, 90, 30)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("LA", (100, 255), (100, 100, 100)),
    ),
)
def test_other_modes_become_rgb(mode, colour, rgb):
    file = io.BytesIO()
    Image.new(mode, (8, 6), colour).save(file, "jpeg" if mode == "CMYK" else "png")
    pixels = decode_image(file.getvalue())
    assert pixels.shape == (6, 8, 3)
    assert (pixels == rgb).all()


def test_transparency_is_laid_on_white():
    file = io.BytesIO()
    Image.new("RGBA", (8, 6), (0, 0, 0, 0)).save(file, "png")
    assert (decode_image(file.getvalue()) == 255).all()


def test_sixteen_bit_images_are_refused():
    with pytest.raises(DataError, match="wanted 8 bits per channel"):
        decode_image(png("I;16"))


def test_an_image_is_no_video_and_a_video_no_image():
    with pytest.raises(DataError, match="a png image, wanted a video"):
        decode_frames(png(), [0])
    with pytest.raises(DataError, match="no jpg, png or gif"):
        decode_image(encode_mp4(moving_frames(2), 8))


@requires_shared
@pytest.mark.parametrize(
    "name, frames, fps",
    (
        ("videos/bigbuckbunny.mp4", 132, 25),
        ("videos/nasa_13013.mp4", 390, 30000 / 1001),
        ("videos/tears_of_steel.webm", 1691, 24),
    ),
)
def test_real_videos(name, frames, fps):
    data = (SHARED / "assets" / name).read_bytes()
    info = probe(data)
    assert (info.frames, info.fps, info.vfr) == (frames, fps, False)
    assert sniff(data) == name[-4:].lstrip(".")
    np.testing.assert_allclose(frame_times(data, frames), np.arange(frames) / fps, atol=1e-3)


def bars(count):
    """Frames of which number n is of level 10 + 12 n."""
    return [np.full((48, 64, 3), 10 + 12 * n, np.uint8) for n in range(count)]


@pytest.mark.parametrize(
    "codec, options", (("mpeg4", {"b": "4M"}), ("mpeg4", {"b": "4M", "bf": "2"}), ("libx264", {"bf": "0"}))
)
def test_old_containers_are_read_frame_by_frame(codec, options):
    data = encode(bars(16), codec, "yuv420p", container="avi", options=options)
    info = probe(data)
    assert (info.format, info.frames, info.fps, info.vfr, info.width, info.height) == ("avi", 16, 8, False, 64, 48)
    np.testing.assert_allclose(frame_times(data, 16), np.arange(16) / 8)
    frames = decode_frames(data, range(16))
    assert [round(float(frame.mean()) - 10) // 12 for frame in frames + 2] == list(range(16))
    assert np.array_equal(np.stack(list(read_frames(data, [7, 12], 16))), frames[[7, 12]])


def test_h264_whose_frames_avi_puts_out_of_order_is_refused_by_name():
    """AVI has no times of its own: with B-frames FFmpeg guesses them, and they do not ascend."""
    with pytest.raises(DataError, match="frame 2 is not shown after the one before it"):
        probe(encode(bars(16), "libx264", container="avi", options={"bf": "3", "b-adapt": "0"}))
