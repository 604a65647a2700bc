"""One pass of swscale shows the same picture as conversion and Pillow, cut out of the same place."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest

from lavie.data.media.clips import fit
from lavie.data.media.decode import read_frames
from lavie.data.media.encode import encode_mp4
from lavie.data.media.one_pass import scaled_pixels
from tests.data.media.videos import encode, with_matrix


def smooth(count: int, height: int, width: int, scale: float = 1.0) -> np.ndarray:
    """Return frames of slow waves in colour, as they are at a size `scale` times as large."""
    y, x = (np.mgrid[: round(height * scale), : round(width * scale)] + 0.5) / scale
    waves = [128 + 90 * np.sin(x / 31 + y / 17 + 2 * channel + t) for t in range(count) for channel in range(3)]
    return np.stack(waves, -1).reshape(*x.shape, count, 3).transpose(2, 0, 1, 3).round().astype(np.uint8)


def both(data: bytes, height: int, width: int, crop="cover", u=0.5, v=0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return a video's first frames, fitted by one pass and by Pillow."""
    one = partial(scaled_pixels, height=height, width=width, crop=crop)
    return tuple(
        fit(read_frames(data, range(2), 2, **options), height, width, u, v, crop) for options in ({"convert": one}, {})
    )


@pytest.mark.parametrize("size, factor", (((48, 80), 0.5), ((40, 66), 40 / 96), ((192, 320), 2)))
def test_pixels_are_those_of_the_picture_at_that_size(size, factor):
    data = encode_mp4(smooth(2, 96, 160), 8)
    truth = smooth(2, 96, 160, factor)[:, : size[0], : size[1]].astype(int)
    one, pillow = both(data, *size, u=0, v=0)
    assert one.shape == pillow.shape == (2, *size, 3)
    inner = np.s_[:, 3:-3, 3:-3]
    mean_error = [np.abs(found.astype(int) - truth)[inner].mean() for found in (one, pillow)]
    assert mean_error[0] < mean_error[1] + 0.2 < 1.7


@pytest.mark.parametrize("place", (0, 0.3, 1))
def test_the_cut_lies_where_pillow_cuts(place):
    data = encode_mp4(smooth(2, 96, 200), 8)
    one, pillow = both(data, 48, 60, u=place)
    # Half a pixel of the target is 0.8 of the source's, over which the waves change by at most 90 * 0.8 * 2 / 31.
    assert np.abs(one.astype(int) - pillow).mean() < 5


@pytest.mark.parametrize(
    "make",
    (
        lambda frames: with_matrix(encode(frames), (0, 1, -1, 0)),
        lambda frames: encode(frames, tags={"sample_aspect_ratio": Fraction(4, 3)}),
        lambda frames: encode(frames, "libvpx-vp9", "yuva420p", source="rgb24", container="webm"),
    ),
    ids=("turned", "not square", "transparent"),
)
def test_other_frames_come_as_by_pillow(make):
    one, pillow = both(make(smooth(2, 96, 160)), 48, 48)
    np.testing.assert_array_equal(one, pillow)


def test_a_patch_that_is_not_scaled_is_the_same():
    one, pillow = both(encode_mp4(smooth(2, 96, 160), 8), 48, 64, "patch", u=0.4)
    np.testing.assert_array_equal(one, pillow)
