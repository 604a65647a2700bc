"""Frames are what a player shows: shape, orientation, transparency and colours."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from lavie.data.media.decode import decode_frames, probe, read_frames
from lavie.data.media.encode import encode_mp4
from lavie.data.media.image import decode_image
from lavie.data.media.shown import Shape, shown_size
from lavie.errors import DataError
from tests.data.media.frames import moving_frames
from tests.data.media.videos import encode, remuxed, with_clap, with_matrix, yuv

BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
COLOURS = np.array(
    [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.8, 0.5, 0.35), (0.1, 0.6, 0.2), (0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5)]
)


def disc(height: int, width: int, aspect: float, radius: float) -> np.ndarray:
    """Return a disc that is round once its pixels, `aspect` times as wide as high, are shown: uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2) * max(aspect, 1)) ** 2 + ((y - height / 2) * max(1 / aspect, 1)) ** 2 < radius**2
    return np.repeat(np.uint8(255) * inside.astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("container, codec", (("mp4", "libx264"), ("matroska", "libx264"), ("mov", "mpeg4")))
@pytest.mark.parametrize("aspect, size", ((Fraction(64, 45), (144, 256)), (Fraction(8, 9), (162, 180))))
def test_pixels_become_square(container, codec, aspect, size):
    frame = disc(144, 180, aspect, 57)
    data = encode([frame] * 4, codec, container=container, tags={"sample_aspect_ratio": aspect}, options={"b": "2M"})
    info, shown = probe(data), decode_frames(data, [0, 3])
    assert (info.height, info.width) == shown.shape[1:3] == size
    ball = shown[1, ..., 0] > 127
    assert abs(int(ball.any(0).sum()) - int(ball.any(1).sum())) <= 2
    (note,) = (note for note in info.notes if note.startswith("pixels not square"))
    assert f"180 x 144 shown as {size[1]} x {size[0]}" in note


def test_pixels_that_are_nearly_square_stay_as_they_are():
    plain = encode([disc(48, 64, 1, 20)] * 2)
    nearly = encode([disc(48, 64, 1, 20)] * 2, tags={"sample_aspect_ratio": Fraction(3201, 3200)})
    np.testing.assert_array_equal(decode_frames(nearly, [0]), decode_frames(plain, [0]))


def test_a_shown_size_past_the_limits_is_refused():
    data = bytearray(encode([disc(48, 64, 1, 20)] * 2, tags={"sample_aspect_ratio": Fraction(2, 1)}))
    place = data.index(b"pasp") + 4
    data[place : place + 8] = struct.pack(">2I", 200, 1)
    with pytest.raises(DataError, match="12800 x 48 pixels: wanted"):
        probe(bytes(data))


@pytest.mark.parametrize(
    "matrix",
    (
        (1, 0, 0, 1),
        (0, 1, -1, 0),
        (-1, 0, 0, -1),
        (0, -1, 1, 0),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ),
)
def test_turned_and_mirrored_video_equals_a_still_of_that_orientation(matrix):
    """EXIF's eight orientations, as Pillow shows them, are the eight matrices of MP4."""
    orientations = {
        (1, 0, 0, 1): 1,
        (-1, 0, 0, 1): 2,
        (-1, 0, 0, -1): 3,
        (1, 0, 0, -1): 4,
        (0, 1, 1, 0): 5,
        (0, 1, -1, 0): 6,
        (0, -1, -1, 0): 7,
        (0, -1, 1, 0): 8,
    }
    source = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientations[matrix]
    Image.fromarray(source).save(file, "png", exif=exif)
    still = decode_image(file.getvalue())
    video = with_matrix(encode_mp4([source] * 2, 8, lossless=True), matrix)
    np.testing.assert_array_equal(decode_frames(video, [0])[0], still)
    assert (probe(video).height, probe(video).width) == still.shape[:2]


def test_an_oblique_video_is_refused():
    data = bytearray(with_matrix(encode_mp4(moving_frames(2), 8, lossless=True), (1, 0, 0, 1)))
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = np.array([46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30], ">i4").tobytes()
    with pytest.raises(DataError, match=r"turned by -?45 degrees: wanted a multiple of 90"):
        probe(bytes(data))


def test_a_turned_anamorphic_video_is_stretched_along_its_stored_rows():
    data = encode([disc(144, 180, 64 / 45, 57)] * 2, tags={"sample_aspect_ratio": Fraction(64, 45)})
    still = decode_frames(data, [0])[0]
    turned = with_matrix(data, (0, 1, -1, 0))
    np.testing.assert_array_equal(decode_frames(turned, [0])[0], np.rot90(still, -1))


@pytest.mark.parametrize(
    "container, codec, format, options",
    (
        ("mov", "qtrle", "argb", {}),
        ("mov", "prores_ks", "yuva444p10le", {"profile": "4"}),
        ("mov", "png", "rgba", {}),
        ("matroska", "ffv1", "yuva420p", {}),
        ("webm", "libvpx", "yuva420p", {"auto-alt-ref": "0", "b": "1M"}),
        ("webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0", "b": "1M"}),
    ),
)
def test_transparent_video_is_laid_on_white(container, codec, format, options):
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., :3] = 200, 0, 200  # a colour that nobody sees
    rgba[16:48, 16:48] = 0, 160, 0, 255
    rgba[24:40, 24:40, 3] = 128
    frames = decode_frames(
        encode([rgba] * 6, codec, format, source="rgba", container=container, options=options), [0, 5]
    )
    assert (frames[:, 2:8, 2:8] == 255).all()
    white = Image.alpha_composite(Image.new("RGBA", (64, 64), "white"), Image.fromarray(rgba)).convert("RGB")
    for y, x in ((20, 20), (32, 32)):
        np.testing.assert_allclose(frames[:, y, x].astype(int), np.array(white)[[y, y], [x, x]], atol=6)


@pytest.mark.parametrize("mode, colour", (("RGBA", (10, 200, 30, 77)), ("LA", (90, 60)), ("P", 3), ("RGB", (9, 8, 7))))
def test_transparent_stills_are_those_of_pillow(mode, colour):
    image, file = Image.new(mode, (8, 6), colour), io.BytesIO()
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9, 50, 60, 70, 200, 100, 0])
        image.info["transparency"] = bytes([255, 255, 255, 100])
    image.save(file, "png", **({"transparency": (9, 8, 7)} if mode == "RGB" else {}))
    saved = Image.open(io.BytesIO(file.getvalue())).convert("RGBA")
    wanted = np.array(Image.alpha_composite(Image.new("RGBA", saved.size, "white"), saved).convert("RGB"))
    np.testing.assert_array_equal(decode_image(file.getvalue()), wanted)


@pytest.mark.parametrize(
    "side, tags, weights",
    (
        (16, {}, BT601),
        (160, {}, BT709),  # 1280 x 160
        (16, {"colorspace": 1}, BT709),
        (160, {"colorspace": 5}, BT601),
        (160, {"colorspace": 9}, BT2020),
        (16, {"colorspace": 1, "color_range": 2}, BT709),
        (160, {"color_range": 2}, BT709),
    ),
)
@pytest.mark.parametrize("bits", (8, 10))
def test_colours_are_those_of_the_named_matrix_or_of_the_size(side, tags, weights, bits):
    full = tags.get("color_range") == 2
    packed = yuv(COLOURS, bits, weights, side, full)
    format = "yuv420p" if bits == 8 else "yuv420p10le"
    data = encode([packed] * 2, format=format, source=format, size=(side, 8 * side), options={"qp": "0"}, tags=tags)
    found = decode_frames(data, [0])[0, side // 2, side // 2 :: side]
    np.testing.assert_allclose(found, 255 * COLOURS, atol=2)
    assert any("no colour matrix named" in note for note in probe(data).notes) == ("colorspace" not in tags)


def test_a_matrix_that_is_not_converted_is_refused_by_name():
    data = encode([yuv(COLOURS, 8, BT601)] * 2, source="yuv420p", size=(16, 128), tags={"colorspace": 10})
    with pytest.raises(DataError, match="colour matrix is number 10"):
        probe(data)


def test_dolby_vision_that_other_players_cannot_show_is_refused():
    frames = list(moving_frames(2))
    plain, hlg = (
        encode(frames, format="yuv420p10le", tags=tags)
        for tags in ({}, {"color_trc": 18, "colorspace": 9, "color_primaries": 9})
    )
    with pytest.raises(DataError, match=r"Dolby Vision without .* \(profile 5\)"):
        probe(plain.replace(b"avc1", b"dvav"))
    assert probe(hlg.replace(b"avc1", b"dvav")).frames == 2


@pytest.mark.parametrize("side", (16, 160))
def test_what_is_encoded_here_comes_back_and_other_players_agree(side):
    source = np.repeat(np.repeat(np.rint(255 * COLOURS).astype(np.uint8), side, 0)[None], side, 0)
    data = encode_mp4([source] * 2, 8)
    found = decode_frames(data, [0])[0, side // 2, side // 2 :: side]
    np.testing.assert_allclose(found.astype(int), np.rint(255 * COLOURS), atol=3)
    with av.open(io.BytesIO(data)) as container:
        named = int(next(container.decode(video=0)).colorspace)
    assert named == (1 if side == 160 else 2)


CROPPED = {
    # Left, right, top, bottom of what is cut off, and the clean aperture that says so.
    "plain": ((10, 6, 4, 2), (80, 58, Fraction(2), Fraction(1))),
    "odd": ((3, 4, 0, 7), (89, 57, Fraction(-1, 2), Fraction(-7, 2))),
    "one side": ((0, 16, 0, 0), (80, 64, Fraction(-8), Fraction(0))),
}
"""The cases are of frames of 96 x 64 pixels."""


@pytest.mark.parametrize("container", ("mp4", "mov", "matroska"))
@pytest.mark.parametrize("case", CROPPED)
def test_what_the_container_crops_is_not_shown(container, case):
    (left, right, top, bottom), aperture = CROPPED[case]
    whole = encode(list(moving_frames(6, 64, 96)), container="mov" if container == "mov" else "mp4")
    cropped = with_clap(whole, *aperture)
    if container == "matroska":
        whole, cropped = remuxed(whole, container), remuxed(cropped, container)
    wanted = decode_frames(whole, range(6))[:, top : 64 - bottom, left : 96 - right]
    np.testing.assert_array_equal(decode_frames(cropped, range(6)), wanted)
    np.testing.assert_array_equal(next(read_frames(cropped, [4], 6)), wanted[4])
    info, other = probe(cropped), probe(whole)
    assert (info.width, info.height, info.frames) == (96 - left - right, 64 - top - bottom, 6)
    borders = f"{left} pixels left, {right} right, {top} above, {bottom} below, 96 x 64 stored"
    assert set(info.notes) - set(other.notes) == {f"cropped by the container: {borders}"}


def test_a_crop_comes_before_the_shape_and_the_turn():
    """The crop is of stored pixels: then they become square, then the picture is turned."""
    whole = encode(list(moving_frames(2, 64, 96)), tags={"sample_aspect_ratio": Fraction(2)})
    cropped = with_matrix(with_clap(whole, *CROPPED["plain"][1]), (0, 1, -1, 0))
    square = encode(list(moving_frames(2, 64, 96)))
    stretched = Image.fromarray(decode_frames(square, [0])[0, 4:62, 10:90]).resize((160, 58), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode_frames(cropped, [0])[0], np.rot90(stretched, -1))
    assert (probe(cropped).width, probe(cropped).height) == (58, 160)


def test_a_clean_aperture_that_is_impossible_is_passed_over():
    """As FFmpeg does: a crop that leaves the frame means nothing."""
    whole = encode(list(moving_frames(2, 64, 96)))
    assert probe(with_clap(whole, 200, 10, Fraction(0), Fraction(0))) == probe(whole)


def test_interlaced_video_is_named():
    options = {"x264-params": "interlaced=1"}
    data = encode(list(moving_frames(4)), options=options)
    assert any(note.startswith("interlaced") for note in probe(data).notes)


@pytest.mark.parametrize(
    "aspect, size",
    (
        (Fraction(7, 8), (180, 165)),  # 164.57
        (Fraction(64, 63), (183, 144)),  # 182.86
        (Fraction(16, 15), (192, 144)),
        (Fraction(59, 60), (180, 146)),  # 146.44
        (Fraction(0), (180, 144)),  # not told
    ),
)
def test_sizes_are_rounded_to_the_nearest_pixel(aspect, size):
    assert shown_size(av.VideoFrame(180, 144, "rgb24"), Shape(aspect)) == size
