import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from lavie.errors import ConfigError, DataError
from lavie.evaluation.fvd.preprocess import apply_steps
from lavie.evaluation.fvd.protocol import PRESETS, Crop, Resize, Round, load_protocol
from lavie.testing import relative_error


def noise(height, width, frames=2):
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)


def pixels(frames):
    """(F, H, W, 3) uint8 as (3, F, H, W) in [-1, 1]."""
    return torch.from_numpy(frames.copy()).permute(3, 0, 1, 2).float() / 127.5 - 1


def test_the_papers_crop_is_rows_25_to_295_and_columns_121_to_391():
    frames = noise(320, 512)
    found = apply_steps(frames, PRESETS["lavie"].fake.steps[:1])
    torch.testing.assert_close(found, pixels(frames[:, 25:295, 121:391]))
    assert apply_steps(frames, PRESETS["lavie"].fake.steps).shape == (3, 2, 224, 224)


def test_every_preset_ends_at_the_size_of_i3d():
    for protocol in PRESETS.values():
        assert apply_steps(noise(240, 320), protocol.real.steps).shape == (3, 2, 224, 224)
        assert apply_steps(noise(320, 512), protocol.fake.steps).shape == (3, 2, 224, 224)


def test_antialiased_resizing_is_pillows_and_the_plain_one_torchs():
    frames = noise(60, 90, frames=1)
    smooth = apply_steps(frames, [Resize(short_side=20, antialias=True), Round()])
    pillow = Image.fromarray(frames[0]).resize((30, 20), Image.Resampling.BILINEAR)
    assert (smooth - pixels(np.asarray(pillow)[None])).abs().max() <= 1.01 / 127.5  # Pillow rounds twice
    plain = apply_steps(frames, [Resize(short_side=20)])
    x = pixels(frames).transpose(0, 1)
    assert relative_error(plain, F.interpolate(x, (20, 30), mode="bilinear").transpose(0, 1)) < 1e-5


def test_the_old_grid_reads_pixel_i_at_i_times_the_scale():
    frames = noise(5, 7, frames=1)
    found = apply_steps(frames, [Resize(stretch=(3, 4), grid="corners")])
    x = pixels(frames)[:, 0]
    for i in range(3):
        for j in range(4):
            y, z = i * 5 / 3, j * 7 / 4
            top, left = int(y), int(z)
            below, right = min(top + 1, 4), min(left + 1, 6)
            above = x[:, top, left] * (1 - z + left) + x[:, top, right] * (z - left)
            under = x[:, below, left] * (1 - z + left) + x[:, below, right] * (z - left)
            torch.testing.assert_close(found[:, 0, i, j], above * (1 - y + top) + under * (y - top))


def test_a_crop_larger_than_the_frames_is_refused():
    with pytest.raises(DataError, match="20 x 10 pixels: the protocol crops 16 x 16"):
        apply_steps(noise(10, 20), [Crop(size=(16, 16))])


def test_whatever_moves_a_number_changes_the_hash():
    protocol = PRESETS["tats"]
    side = protocol.real
    others = [
        *(PRESETS[name] for name in PRESETS if name != "tats"),
        protocol.model_copy(update={"num_frames": 17}),
        protocol.model_copy(update={"seed": 1}),
        protocol.model_copy(update={"ddof": 0}),
        *(
            protocol.model_copy(update={"real": side.model_copy(update=change)})
            for change in (
                {"start": "first"},
                {"stride": 2},
                {"draw": "each"},
                {"limit": 100},
                {"source_size": (320, 512)},
                {"steps": side.steps[:-1]},
                {"steps": (Resize(short_side=128, antialias=True), *side.steps[1:])},
            )
        ),
    ]
    assert len({protocol.hash, *(other.hash for other in others)}) == 1 + len(others)
    assert protocol.model_copy(update={"notes": ("a remark",)}).hash == protocol.hash


def test_a_protocol_of_ones_own_comes_from_a_file(tmp_path):
    text = """
num_frames: 9
ddof: 0
real: {start: random, steps: [{step: resize, short_side: 64, antialias: yes}, {step: crop, size: [64, 64]}]}
fake: {steps: [{step: resize, stretch: [64, 64]}, {step: round}]}
"""
    (tmp_path / "own.yaml").write_text(text)
    found = load_protocol(str(tmp_path / "own.yaml"), seed=3)
    assert (found.num_frames, found.ddof, found.seed) == (9, 0, 3)
    assert found.real.steps == (Resize(short_side=64, antialias=True), Crop(size=(64, 64)))
    assert load_protocol("lavie", num_frames=12) == PRESETS["lavie"].model_copy(update={"num_frames": 12})


@pytest.mark.parametrize(
    "text, words",
    (
        ("real: {steps: []}", "fake"),
        ("real: {steps: [{step: resize}]}\nfake: {steps: []}", "short_side or stretch"),
        ("real: {steps: [{step: blur}]}\nfake: {steps: []}", "step"),
        ("- a", "wanted keys and values"),
        ("a: [", "cannot be read"),
    ),
)
def test_a_file_that_is_no_protocol_is_refused(tmp_path, text, words):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_protocol(str(tmp_path / "own.yaml"))


def test_an_unknown_preset_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match="wanted one of lavie, original, tats, stylegan-v, cd-fvd"):
        load_protocol("fvd")
