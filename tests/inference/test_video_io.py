"""Files that are written decode to what went in."""

import json
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from lavie.data.prepare.synthetic import HELD_OUT, render_clip
from lavie.errors import DataError
from lavie.inference.video_io import write_gif, write_mp4, write_png, write_sample, write_sheet
from lavie.seeds import numpy_generator
from lavie.testing import memory_filled_with


def clip(frames=5, height=128, width=144):
    """Smooth colour gradients with a bright square that moves right."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1)[None].repeat(frames, 0)
    for f in range(frames):
        pixels[f, 16:48, 16 + 8 * f : 48 + 8 * f] = (230, 40, 40)
    return pixels.astype(np.uint8)


def decode(path):
    """The frames (F, H, W, 3), and the stream's facts: they are gone with the container."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        codec = stream.codec_context
        return frames, SimpleNamespace(
            rate=stream.average_rate, codec=codec.name, format=codec.pix_fmt, colorspace=codec.colorspace
        )


def test_mp4_holds_the_clip(tmp_path):
    frames = clip()
    write_mp4(tmp_path / "a.mp4", frames, 8)
    decoded, stream = decode(tmp_path / "a.mp4")
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 2
    assert (stream.codec, stream.format, stream.colorspace, stream.rate) == ("h264", "yuv420p", 1, 8)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_mp4_is_the_same_whatever_memory_holds(tmp_path):
    colour, shape, direction = HELD_OUT[2]
    frames = render_clip(colour, shape, f"moving {direction}", rng=numpy_generator(2, "test"), frames=12, size=144)
    found = set()
    for byte in (1, 85, 128, 170, 254):
        with memory_filled_with(byte):
            write_mp4(tmp_path / "a.mp4", frames, 12)
        found.add((tmp_path / "a.mp4").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    "colour", ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (128, 128, 128), (255, 255, 255))
)
def test_mp4_keeps_colours(tmp_path, colour):
    frames = np.full((2, 128, 128, 3), colour, np.uint8)
    write_mp4(tmp_path / "a.mp4", frames, 8)
    assert np.abs(decode(tmp_path / "a.mp4")[0].astype(int) - frames).max() <= 3


def test_mp4_pads_odd_sides(tmp_path):
    frames = clip(height=131, width=145)
    write_mp4(tmp_path / "a.mp4", frames, 24)
    decoded, _ = decode(tmp_path / "a.mp4")
    assert decoded.shape == (5, 132, 146, 3)
    assert np.abs(decoded[:, :131, :145].astype(int) - frames).mean() < 2


@pytest.mark.parametrize("height, width, factor", ((32, 48, 4), (100, 300, 2), (128, 128, 1), (1, 1, 128)))
def test_small_clips_are_enlarged(tmp_path, height, width, factor):
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    write_mp4(tmp_path / "a.mp4", frames, 8, min_side=128)
    assert decode(tmp_path / "a.mp4")[0].shape[1:3] == (height * factor, width * factor)


@pytest.mark.parametrize("fps", (7.5, 29.97))
def test_fractional_rates(tmp_path, fps):
    write_mp4(tmp_path / "a.mp4", clip(), fps)
    assert float(decode(tmp_path / "a.mp4")[1].rate) == pytest.approx(fps, rel=1e-3)


def test_gif_holds_the_clip(tmp_path):
    frames = clip()
    write_gif(tmp_path / "a.gif", frames, 8)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.info["loop"]) == (5, 120, 0)
        gif.seek(4)
        last = np.asarray(gif.convert("RGB")).astype(int)
    assert np.abs(last - frames[4]).mean() < 16


def test_png_is_lossless(tmp_path):
    frame = clip()[0]
    write_png(tmp_path / "a.png", frame)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), frame)


def test_sample_of_a_clip(tmp_path):
    settings = {"prompt": "a/red \N{SNOWMAN} " * 40, "seed": 3, "guidance_scale": 7.5}
    paths = write_sample(tmp_path / "new" / "folder", "00007", clip(), 8, settings)
    assert [p.name for p in paths] == ["00007.mp4", "00007.gif", "00007.sheet.png", "00007.json"]
    assert sorted(p.name for p in paths) == sorted(p.name for p in (tmp_path / "new" / "folder").iterdir())
    assert json.loads(paths[-1].read_text(encoding="utf-8")) == settings


def test_sample_of_an_image(tmp_path):
    paths = write_sample(tmp_path, "00007", clip()[:1], 8, {"prompt": "red"})
    assert [p.name for p in paths] == ["00007.png", "00007.json"]


@pytest.mark.parametrize("name", ("", ".", "..", "../a", "a/b", "/a", ".a", "a b", "a\n", "a.b", "x" * 65, "-a"))
def test_sample_refuses_unsafe_names(tmp_path, name):
    with pytest.raises(ValueError, match="wanted letters, digits"):
        write_sample(tmp_path, name, clip(), 8, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frames", (clip().astype(np.float32), clip()[0], clip()[..., :1], clip()[:0]))
def test_refuses_other_arrays(tmp_path, frames):
    with pytest.raises(DataError, match=r"wanted uint8 \(F, H, W, 3\)"):
        write_mp4(tmp_path / "a.mp4", frames, 8)
    assert not list(tmp_path.iterdir())


def test_sheet_is_a_png(tmp_path):
    write_sheet(tmp_path / "sheet.png", [("one", clip()), ("two", clip(frames=20))])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
