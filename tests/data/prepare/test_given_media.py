"""Images and videos that a sample starts from: the right frames in the right size, or one line that says why not."""

import io

import numpy as np
import pytest
from PIL import Image

from lavie.data.media.clips import fit
from lavie.data.media.encode import encode_mp4
from lavie.data.prepare import given_media
from lavie.data.prepare.given_media import read_clip, read_still
from lavie.errors import ConfigError


@pytest.fixture
def picture(tmp_path):
    """A png of 40 x 30 pixels, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png", pixels


@pytest.fixture
def video(tmp_path):
    """A lossless mp4 of 24 frames at 12 per second whose frame i is of level 10 * i, and which is 32 x 32."""
    frames = np.stack([np.full((32, 32, 3), 10 * i, np.uint8) for i in range(24)])
    (tmp_path / "a.mp4").write_bytes(encode_mp4(frames, 12, lossless=True))
    return tmp_path / "a.mp4"


def test_a_still_is_cut_as_training_cuts(picture):
    path, pixels = picture
    assert np.array_equal(read_still(path, 16, 16, flag="--image"), fit([pixels], 16, 16)[0])


def test_a_clip_begins_or_ends_the_video_at_the_rate_of_the_sample(video):
    def levels(**options):
        return (read_clip(video, 4, 6, 16, 24, flag="--from-video", **options)[:, 8, 8, 0] // 10).tolist()

    assert levels() == [0, 2, 4, 6]
    assert levels(at_end=True) == [17, 19, 21, 23]


def test_what_cannot_be_read_is_one_line(tmp_path, picture, video, monkeypatch):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(picture[0].read_bytes()[:300])
    (tmp_path / "half.mp4").write_bytes(video.read_bytes()[:900])
    for path, words in (
        (tmp_path / "none.png", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "text.png", "no mp4, mov"),
        (tmp_path / "half.png", "the image cannot be decoded"),
        (video, "24 frames, where an image is wanted: cut one frame out as a png"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            read_still(path, 16, 16, flag="--to-image")
        assert str(caught.value).startswith(f"--to-image {path}: ") and "\n" not in str(caught.value)
    for path, words in (
        (picture[0], "an image, where a video is wanted"),
        (tmp_path / "half.mp4", ""),
        (tmp_path / "text.png", "no mp4, mov"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            read_clip(path, 4, 6, 16, 16, flag="--from-video")
        assert str(caught.value).startswith(f"--from-video {path}: ") and "\n" not in str(caught.value)
    monkeypatch.setattr(given_media, "MAX_BYTES", 100)
    with pytest.raises(ConfigError, match="wanted at most 100"):
        read_still(picture[0], 16, 16, flag="--image")


@pytest.mark.parametrize("count, fps", ((13, 6), (5, 24)))
def test_a_video_that_is_too_short_or_too_slow_is_told(video, count, fps):
    with pytest.raises(
        ConfigError, match=rf"24 frames in 2 s hold no {count} different ones at {fps} frames per second"
    ):
        read_clip(video, count, fps, 16, 16, flag="--from-video")


def test_an_upright_image_stays_upright(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    image, file = Image.fromarray(pixels), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(file, "png", exif=exif)
    (tmp_path / "a.png").write_bytes(file.getvalue())
    turned = read_still(tmp_path / "a.png", 40, 20, flag="--image")
    assert turned[5].mean() > 250 and turned[35].mean() < 5
