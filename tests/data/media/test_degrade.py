"""The low resolution: exact where nothing is random, and otherwise blurred, noised and compressed as much as drawn."""

import io

import numpy as np
import pytest
from PIL import Image

from lavie.config.data import DegradationConfig
from lavie.data.media.degrade import FILTERS, degrade
from lavie.seeds import numpy_generator


def config(**changes) -> DegradationConfig:
    """Return a configuration that does nothing but average boxes, with changes."""
    values = {"filters": ("box",), "blur": (0, 0), "noise": (0, 0), "jpeg_quality": (100, 100)}
    return DegradationConfig(**{**values, **changes})


def noise_frames(frames=3, height=24, width=32):
    """Return frames of uniform noise."""
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def run(frames, settings, n=0):
    """Return the n-th of many low resolutions of frames."""
    return degrade(frames, settings, numpy_generator(n, "test"))


@pytest.mark.parametrize("scale", (2, 4, 8))
def test_the_box_is_the_exact_average(scale):
    frames = noise_frames()
    low = run(frames, config(scale=scale))
    parts = frames.reshape(3, 24 // scale, scale, 32 // scale, scale, 3).astype(int)
    assert low.dtype == np.uint8
    np.testing.assert_array_equal(low, np.rint(parts.sum((2, 4)) / scale**2).astype(np.uint8))


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_pillows(name):
    frames = noise_frames()
    low = run(frames, config(filters=(name,)))
    channels = frames.astype(np.float32).transpose(0, 3, 1, 2).reshape(-1, 24, 32)
    theirs = np.stack([np.asarray(Image.fromarray(c).resize((8, 6), FILTERS[name])) for c in channels])
    theirs = theirs.reshape(3, 3, 6, 8).transpose(0, 2, 3, 1).clip(0, 255)
    assert abs(low - theirs).max() < 0.5 + 1e-4  # the rounding to uint8, and Pillow's float32


@pytest.mark.parametrize("sigma", (0.3, 1.0, 3.0))
def test_the_blur_is_gaussian(sigma):
    """Blur multiplies a wave by the Gaussian's transform exp(-(k sigma)^2 / 2); the box takes its own share."""
    x = np.arange(256)
    wave = 100 * np.cos(2 * np.pi * x / 29.3)
    frames = np.rint(127.5 + wave)[None, None, :, None].repeat(64, 1).repeat(3, 3).astype(np.uint8)
    inside = slice(8, -8)
    plain, blurred = (run(frames, config(blur=b))[0, 8, inside, 0] - 127.5 for b in ((0, 0), (sigma, sigma)))
    assert blurred @ plain / (plain @ plain) == pytest.approx(np.exp(-((2 * np.pi / 29.3 * sigma) ** 2) / 2), abs=0.005)
    upright = run(frames.swapaxes(1, 2), config(blur=(sigma, sigma)))
    np.testing.assert_array_equal(upright.swapaxes(1, 2), run(frames, config(blur=(sigma, sigma))))


@pytest.mark.parametrize("blur", ((0, 0), (1.5, 1.5), (10, 10)))
@pytest.mark.parametrize("name", FILTERS)
def test_a_flat_colour_stays_to_the_border(name, blur):
    frames = np.full((2, 16, 24, 3), (10, 128, 250), np.uint8)
    assert (run(frames, config(filters=(name,), blur=blur)) == (10, 128, 250)).all()


def test_noise_is_as_strong_as_drawn_and_new_in_every_frame():
    frames = np.full((4, 128, 128, 3), 128, np.uint8)
    noise = run(frames, config(noise=(0.05, 0.05))).astype(float) - 128
    assert noise.std() == pytest.approx(0.05 * 255, rel=0.02)
    assert abs(noise.mean()) < 0.3
    assert abs(np.corrcoef(noise.reshape(4, -1)) - np.eye(4)).max() < 0.05


def test_jpeg_is_pillows():
    frames = np.full((1, 64, 64, 3), 0, np.uint8)
    frames[:, 20:40, 20:44] = (200, 90, 30)
    file = io.BytesIO()
    Image.fromarray(run(frames, config())[0]).save(file, "jpeg", quality=60)
    np.testing.assert_array_equal(run(frames, config(jpeg_quality=(60, 60)))[0], np.asarray(Image.open(file)))
    plain, worse, better = (run(frames, config(jpeg_quality=(q, q))).astype(int) for q in (100, 20, 95))
    assert abs(worse - plain).mean() > abs(better - plain).mean() > 0


def test_what_a_clip_draws_varies_over_clips_but_not_within():
    clip = np.repeat(noise_frames(1), 5, axis=0)
    settings = DegradationConfig(noise=(0, 0))
    seen = [run(clip, settings, n) for n in range(40)]
    assert all((low == low[:1]).all() for low in seen)
    assert len({low.tobytes() for low in seen}) == 40


def test_every_filter_is_drawn():
    frames = noise_frames(1)
    alone = {name: run(frames, config(filters=(name,))).tobytes() for name in FILTERS}
    drawn = [run(frames, config(filters=tuple(FILTERS)), n).tobytes() for n in range(200)]
    assert len(set(alone.values())) == 4
    assert min(drawn.count(low) for low in alone.values()) > 25
    assert sum(drawn.count(low) for low in alone.values()) == 200


def test_the_same_numbers_on_every_call():
    frames = noise_frames()
    np.testing.assert_array_equal(run(frames, DegradationConfig(), 5), run(frames, DegradationConfig(), 5))


def test_sizes_that_do_not_divide_are_an_error():
    with pytest.raises(ValueError, match="24 x 30 pixels: both must be multiples of the scale, 4"):
        run(noise_frames(width=30), config())
