"""Images with a colour profile come out in sRGB, by the formulas; others, and broken profiles, keep their pixels."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from lavie.data.media.decode import probe
from lavie.data.media.icc import in_srgb
from lavie.data.media.image import decode_image
from tests.data.media.profiles import (
    D50,
    adapted,
    cmyk_profile,
    gamma_curve,
    grey_profile,
    rgb_profile,
    sampled_curve,
    srgb_level,
    srgb_light,
    to_xyz,
)

ADOBE_GAMMA = 563 / 256
"""Adobe RGB (1998), section 4.3.1.2."""
GRID = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).reshape(18, -1, 3).astype(np.uint8)
SRGB_CURVE = sampled_curve(srgb_light(np.linspace(0, 1, 4096)))
P3 = rgb_profile("Display P3", SRGB_CURVE)


def saved(image: Image.Image, format: str = "png", **options) -> bytes:
    """Return an image file; the options are Pillow's."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def in_float64(pixels: np.ndarray, name: str, gamma: float | None) -> np.ndarray:
    """Return the sRGB levels of pixels with the primaries of `name`, and of sRGB's curve if `gamma` is None."""
    signal = pixels / 255
    light = srgb_light(signal) if gamma is None else signal**gamma
    return srgb_level(light @ (np.linalg.inv(to_xyz("sRGB")) @ to_xyz(name)).T)


@pytest.mark.parametrize(
    "name, curve, gamma",
    (("Display P3", SRGB_CURVE, None), ("Adobe RGB", gamma_curve(ADOBE_GAMMA), ADOBE_GAMMA)),
)
@pytest.mark.parametrize("format", ("png", "jpeg"))
def test_wide_colours_come_out_in_srgb(name, curve, gamma, format):
    options = {"quality": 100, "subsampling": 0} if format == "jpeg" else {}
    data = saved(Image.fromarray(GRID), format, icc_profile=rgb_profile(name, curve), **options)
    stored = np.asarray(Image.open(io.BytesIO(data)))
    error = np.abs(decode_image(data) - in_float64(stored, name, gamma))
    assert error.max() < 1 and error.mean() < 0.3
    assert np.abs(stored - in_float64(stored, name, gamma)).max() > 50
    assert probe(data).notes == (f"colour profile: {name}, converted to sRGB",)


def test_a_published_colour_of_display_p3():
    """The red of sRGB is (234, 51, 35) in Display P3, the example of many color() articles, and comes back as red."""
    pixels = decode_image(saved(Image.new("RGB", (4, 4), (234, 51, 35)), icc_profile=P3))
    np.testing.assert_allclose(pixels[0, 0].astype(int), (255, 0, 0), atol=2)


@pytest.mark.parametrize("format", ("png", "jpeg"))
def test_grey_with_a_gamma(format):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    data = saved(Image.fromarray(ramp), format, icc_profile=grey_profile(gamma_curve(461 / 256)))
    stored = np.asarray(Image.open(io.BytesIO(data)))
    pixels = decode_image(data)
    assert (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[..., 0] - srgb_level((stored / 255) ** (461 / 256))).max() < 1


INKS = np.array(np.meshgrid(*[[0, 255]] * 4, indexing="ij")).reshape(4, 16).T.astype(np.uint8)
"""No or all of cyan, magenta, yellow and black: (16, 4), in the order of a profile's table."""


@pytest.mark.parametrize("black", (0, 20))
def test_prints_by_their_inks(black):
    """Every mixture of full inks has the colour that the profile says; the darkest becomes black.

    black: the lightness of all inks together.
    """
    lab = np.zeros((16, 3))
    lab[:, 0] = np.linspace(100, black, 16)
    lab[1:15, 1:] = np.random.default_rng(0).integers(-12, 12, (14, 2))
    profile = cmyk_profile(lab.reshape(2, 2, 2, 2, 3))
    image = Image.fromarray(np.repeat(np.repeat(INKS[None], 16, 0), 16, 1), "CMYK")
    decoded = decode_image(saved(image, "jpeg", quality=100, subsampling=0, icc_profile=profile))[8, 8::16]
    image.info["icc_profile"] = profile
    exact = np.asarray(in_srgb(image)[0])[8, 8::16]

    # CIE L*, a*, b* to XYZ; then black point compensation, which keeps white and moves the darkest to zero.
    f = (lab[:, :1] + 16) / 116 + lab[:, [1, 0, 2]] * [1 / 500, 0, -1 / 200]
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    darkest = xyz[15]
    xyz = (xyz - darkest) * D50 / (D50 - darkest)
    wanted = srgb_level(xyz @ np.linalg.inv(adapted("sRGB")).T)
    # The table's lightness has 8 bits; JPEG rounds the inks too.
    assert np.abs(exact - wanted).max() < 2
    assert np.abs(decoded - wanted).max() < 6
    assert exact[15].max() == 0 and exact[0].min() == 255


def test_a_print_without_a_profile_is_read_as_before():
    image = Image.fromarray(np.repeat(np.repeat(INKS[None], 16, 0), 16, 1), "CMYK")
    data = saved(image, "jpeg", quality=100)
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ("RGBA", "LA", "P", "L", "1"))
def test_every_mode_that_a_profile_of_rgb_describes(mode):
    """Palettes, grey and transparency: colours are converted, transparency is not."""
    colour = {"RGBA": (234, 51, 35, 128), "LA": (90, 128), "P": (234, 51, 35), "L": 90, "1": 1}[mode]
    pixels = decode_image(saved(Image.new(mode, (4, 4), colour), icc_profile=P3))[0, 0].astype(int)
    opaque = {"RGBA": (255, 0, 0), "LA": (90, 90, 90), "P": (255, 0, 0), "L": (90, 90, 90), "1": (255, 255, 255)}[mode]
    weight = 128 / 255 if mode.endswith("A") else 1
    np.testing.assert_allclose(pixels, 255 - weight * (255 - np.array(opaque)), atol=2)


def test_a_palette_with_a_transparent_colour():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 234, 51, 35])
    image.putpixel((0, 0), 0)
    pixels = decode_image(saved(image, transparency=0, icc_profile=P3)).astype(int)
    assert (pixels[0, 0] == 255).all()
    np.testing.assert_allclose(pixels[1, 1], (255, 0, 0), atol=2)


SRGB_PROFILES = {
    "Pillow's": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "1024 points": rgb_profile("sRGB", sampled_curve(srgb_light(np.linspace(0, 1, 1024)))),
}


@pytest.mark.parametrize("profile", (None, *SRGB_PROFILES))
def test_srgb_keeps_every_pixel(profile):
    data = saved(Image.fromarray(GRID), icc_profile=SRGB_PROFILES.get(profile))
    np.testing.assert_array_equal(decode_image(data), GRID)
    assert probe(data).notes == ()


def test_grey_of_srgbs_curve_keeps_every_pixel():
    grey = np.arange(256, dtype=np.uint8)[None]
    data = saved(Image.fromarray(grey), icc_profile=grey_profile(SRGB_CURVE))
    np.testing.assert_array_equal(decode_image(data), grey[..., None].repeat(3, -1))


BROKEN = {
    "no profile": b"nothing of the kind",
    "cut short": P3[: len(P3) // 8],
    "without its curves": P3.replace(b"rTRC", b"xTRC"),
    "of prints": cmyk_profile(np.zeros((2, 2, 2, 2, 3))),
    "of grey": grey_profile(gamma_curve(1.8)),
    "of a space that is unknown": P3.replace(b"RGB ", b"HSV "),
    "huge": P3[:128] + b"\xff" * 400,
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("format", ("png", "jpeg"))
def test_a_broken_profile_does_not_lose_the_image(fault, format):
    plain = decode_image(saved(Image.fromarray(GRID), format))
    data = saved(Image.fromarray(GRID), format, icc_profile=BROKEN[fault])
    np.testing.assert_array_equal(decode_image(data), plain)
    (note,) = probe(data).notes
    assert note == "colour profile: it cannot be read, the pixels are taken as they are"


def test_no_byte_of_a_profile_can_lose_an_image():
    rng = np.random.default_rng(1)
    for _ in range(300):
        profile = bytearray(P3[:2000])
        for place in rng.integers(0, 700, 3):
            profile[place] = rng.integers(256)
        assert decode_image(saved(Image.fromarray(GRID[:2]), icc_profile=bytes(profile))).shape == (2, 324, 3)


def test_a_converted_image_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    straight = decode_image(saved(Image.fromarray(GRID), icc_profile=P3))
    turned = decode_image(saved(Image.fromarray(GRID), icc_profile=P3, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(straight, -1))
