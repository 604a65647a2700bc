"""The camera: smooth, as fast as asked, never past the border; the clip shows the image shifted by what was drawn."""

import numpy as np
import pytest

from lavie.data.media.camera import camera_path, moving_clip
from lavie.seeds import numpy_generator

ROOMY = (2000.0, 1500.0)


def path(n=0, frames=16, speed=4.0, room=ROOMY):
    """Return the n-th of many paths."""
    return camera_path(frames, speed, room, numpy_generator(n, "test"))


def smooth_image(height, width, seed=0):
    """Return an image uint8 (H, W, 3) of waves no shorter than 12 pixels, which every filter shifts alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3))
    for _ in range(12):
        k = 2 * np.pi / rng.uniform(12, 40)
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        image += rng.uniform(-1, 1, 3) * np.sin(k * (x * np.cos(angle) + y * np.sin(angle)) + phase)[..., None]
    return np.round(127.5 + 100 * image / np.abs(image).max()).astype(np.uint8)


def shift_between(first, second):
    """Return how far the camera moved from one frame to another, (across, down) in pixels.

    It is found by least squares on the gradient of the first frame, shifted by the estimate so far.
    """
    spectrum = np.fft.fft2(first.astype(float).mean(-1))
    fy, fx = np.fft.fftfreq(first.shape[0])[:, None], np.fft.fftfreq(first.shape[1])[None]
    inside = (slice(16, -16), slice(16, -16))
    moved = np.zeros(2)
    for _ in range(20):
        shifted = np.fft.ifft2(spectrum * np.exp(2j * np.pi * (fx * moved[0] + fy * moved[1]))).real
        down, across = np.gradient(shifted)
        slopes = np.stack([across[inside].ravel(), down[inside].ravel()], axis=1)
        moved += np.linalg.lstsq(slopes, (second.astype(float).mean(-1) - shifted)[inside].ravel(), rcond=None)[0]
    return moved


def test_the_path_is_a_pure_function_of_its_generator():
    np.testing.assert_array_equal(path(1), path(1))
    assert (path(1) != path(2)).all()
    assert path().shape == (16, 2)
    assert path().dtype == np.float64


@pytest.mark.parametrize("speed", (0.5, 4.0, 20.0))
def test_the_root_mean_square_speed_is_the_one_asked_for(speed):
    steps = np.concatenate([np.diff(path(n, speed=speed), axis=0) for n in range(400)])
    assert np.sqrt((steps**2).sum(1).mean()) == pytest.approx(speed, rel=0.05)
    assert np.abs(steps.mean(0)).max() < 0.1 * speed


def test_the_camera_wavers_and_does_not_jitter():
    steps = np.stack([np.diff(path(n), axis=0) for n in range(400)])
    kept = (steps[:, 1:] * steps[:, :-1]).mean() / (steps**2).mean()
    assert kept == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("room", ((0, 0), (0, 50), (0.3, 0.01), (5, 5), (40, 7), ROOMY))
@pytest.mark.parametrize("frames", (1, 16, 61))
def test_the_path_stays_in_its_room(room, frames):
    for n in range(40):
        drawn = path(n, frames, 6.0, room)
        assert drawn.shape == (frames, 2)
        assert (drawn >= 0).all()
        assert (drawn <= room).all()


def test_starts_reach_the_whole_room():
    starts = np.concatenate([path(n, speed=0.5, room=(100.0, 30.0)) for n in range(400)])
    assert (starts.min(0) < (5, 3)).all()
    assert (starts.max(0) > (95, 27)).all()


@pytest.mark.parametrize("scale", (1.0, 0.75))
def test_frames_shift_by_what_was_drawn(scale):
    image = smooth_image(260, 300)
    drawn = path(3, frames=8, room=(scale * 300 - 96, scale * 260 - 80))
    clip = moving_clip(image, drawn, 80, 96, scale)
    assert clip.shape == (8, 80, 96, 3)
    assert clip.dtype == np.uint8
    for k in range(7):
        np.testing.assert_allclose(shift_between(clip[k], clip[k + 1]), drawn[k + 1] - drawn[k], atol=0.05)


def test_whole_pixels_are_the_images_own():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    clip = moving_clip(image, np.array([[0, 0], [18.0, 10.0], [7.0, 3.0]]), 30, 32)
    for frame, (x, y) in zip(clip, [(0, 0), (18, 10), (7, 3)], strict=True):
        np.testing.assert_array_equal(frame, image[y : y + 30, x : x + 32])


@pytest.mark.parametrize("scale", (1.0, 0.6, 1.5))
def test_no_border_shows(scale):
    """A flat image stays flat at its very corners: nothing from outside is mixed in."""
    image = np.full((50, 60, 3), (250, 120, 7), np.uint8)
    room = np.array([scale * 60 - 24, scale * 50 - 20])
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1), (0.999, 0.001)]) * room
    assert (moving_clip(image, corners, 20, 24, scale) == (250, 120, 7)).all()


@pytest.mark.parametrize("offset", ((36.01, 0), (0, 30.01), (-0.01, 5), (5, -0.01), (50, -5)))
def test_a_path_that_leaves_the_image_is_an_error(offset):
    """In one frame and on one side; what rounding makes of the border is let through."""
    image = np.zeros((50, 60, 3), np.uint8)
    with pytest.raises(ValueError, match="leaves the room"):
        moving_clip(image, np.array([[0, 0], offset, [1, 1]]), 20, 24)
    assert moving_clip(image, np.array([[-1e-7, 0], [36 + 1e-7, 30 + 1e-7]]), 20, 24).shape == (2, 20, 24, 3)


def test_an_image_of_the_size_of_the_cut_stands_still():
    image = smooth_image(20, 24)
    drawn = path(room=(0, 0))
    np.testing.assert_array_equal(moving_clip(image, drawn, 20, 24), image[None].repeat(16, axis=0))
