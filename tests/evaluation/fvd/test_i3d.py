import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from lavie.errors import CheckpointError, DataError
from lavie.evaluation.clip_source import find_clips
from lavie.evaluation.fvd.i3d import FEWEST_FRAMES, I3D, _pad
from lavie.evaluation.fvd.preprocess import apply_steps
from lavie.evaluation.fvd.protocol import PRESETS, Crop, Resize
from lavie.testing import SHARED
from tests.markers import requires_shared

ASSETS = SHARED / "assets"
WEIGHTS = ASSETS / "i3d_k400/i3d_k400_rgb_fp16.safetensors"
BLACK_AGAINST_WHITE = {10: 569.23, 12: 551.96, 14: 172.85, 16: 152.92}
"""Frames -> FVD of black clips against white ones, as JunyaoHu/common_metrics_on_video_quality publishes it."""


@pytest.fixture(scope="module")
def network():
    return I3D.load(WEIGHTS)


@requires_shared
@pytest.mark.slow
@pytest.mark.parametrize("frames", BLACK_AGAINST_WHITE)
def test_black_clips_against_white_ones_have_the_published_distance(network, frames):
    # All clips of a side are equal, so that the distance is that of the means.
    black, white = (network(torch.full((1, 3, frames, 224, 224), level)).double() for level in (-1.0, 1.0))
    assert float((black - white).square().sum()) == pytest.approx(BLACK_AGAINST_WHITE[frames], rel=0.005)


@requires_shared
@pytest.mark.parametrize("geometry, probability", (("crop", 0.983), ("lavie", 0.944)))
def test_a_raccoon_plays_the_guitar(network, geometry, probability):
    [clip] = [clip for clip in find_clips(ASSETS / "clips_16f") if "raccoon" in clip.name]
    steps = {
        "crop": (Resize(short_side=256, antialias=True), Crop(size=(224, 224))),
        "lavie": PRESETS["lavie"].fake.steps,
    }[geometry]
    logits = network(apply_steps(clip.open().read(range(16)), steps)[None])
    labels = (ASSETS / "i3d_k400/label_map_k400.txt").read_text().splitlines()
    assert labels[int(logits.argmax())] == "playing guitar"
    assert float(logits.softmax(-1).max()) == pytest.approx(probability, abs=0.005)


@requires_shared
def test_nine_frames_are_enough_and_eight_are_refused_by_name(network):
    assert network(torch.zeros(1, 3, FEWEST_FRAMES, 224, 224)).shape == (1, 400)
    with pytest.raises(DataError, match="8 frames: I3D needs 9 or more"):
        network(torch.zeros(1, 3, 8, 224, 224))


@pytest.mark.parametrize("size, kernel, stride", ((16, 7, 2), (17, 7, 2), (5, 3, 2), (7, 3, 1), (8, 2, 2)))
def test_padding_is_that_of_tensorflow(size, kernel, stride):
    # TensorFlow's rule, written out: ceil(size / stride) windows, the odd zero behind.
    windows = int(np.ceil(size / stride))
    room = max(0, (windows - 1) * stride + kernel - size)
    x = torch.arange(1.0, size + 1).view(1, 1, size, 1, 1)
    padded = _pad(x, (kernel, 1, 1), (stride, 1, 1)).flatten()
    assert padded.tolist() == [0] * (room // 2) + list(range(1, size + 1)) + [0] * (room - room // 2)
    assert len(F.max_pool1d(padded[None], kernel, stride)[0]) == windows


def test_weights_of_another_network_are_refused(tmp_path):
    state = {key: torch.zeros_like(value) for key, value in I3D().state_dict().items()}
    save_file({key: value for key, value in state.items() if "Mixed_3b" not in key}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"keys missing .'Mixed_3b"):
        I3D.load(tmp_path / "less.safetensors")
    save_file(state | {"logits.conv3d.bias": torch.zeros(600)}, tmp_path / "k600.safetensors")
    with pytest.raises(CheckpointError, match=r"1 of another shape .'logits.conv3d.bias'"):
        I3D.load(tmp_path / "k600.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    for name in ("x.safetensors", "none.safetensors"):
        with pytest.raises(CheckpointError, match=r"no I3D as a .safetensors"):
            I3D.load(tmp_path / name)
    # The counters of batch norm play no part, and float16 is computed with in float32.
    few = {key: value.half() for key, value in state.items() if not key.endswith("num_batches_tracked")}
    save_file(few, tmp_path / "half.safetensors")
    assert {value.dtype for value in I3D.load(tmp_path / "half.safetensors").parameters()} == {torch.float32}


@pytest.mark.parametrize("value", (torch.nan, -torch.inf))
def test_weights_that_are_no_numbers_are_named(tmp_path, value):
    """A unit whose bias is minus infinity is 0 behind its ReLU, and the logits are numbers like any other."""
    state = {key: weight.half() for key, weight in I3D().state_dict().items() if not key.endswith("tracked")}
    state["Mixed_4c.b1b.bn.bias"][7] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"--weights .*w\.safetensors: Mixed_4c\.b1b\.bn\.bias holds NaN"):
        I3D.load(tmp_path / "w.safetensors")


def defined(state, clips):
    """The logits of I3D as its table of layers says, step by step: Inception-v1, inflated, padded as by TensorFlow."""

    def same(x, kernel, stride):
        sides = []
        for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
            room = max((int(np.ceil(size / s)) - 1) * s + k - size, 0)
            sides = [room // 2, room - room // 2, *sides]
        return F.pad(x, sides)

    def unit(x, name, stride=1):
        weight = state[f"{name}.conv3d.weight"]
        x = F.conv3d(same(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        norm = [state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *norm, training=False, eps=1e-3).relu()

    def pool(x, kernel, stride):
        return F.max_pool3d(same(x, kernel, stride), kernel, stride)

    def mixed(x, name):
        branches = [unit(x, f"{name}.b0")]
        branches += [unit(unit(x, f"{name}.b{n}a"), f"{name}.b{n}b") for n in (1, 2)]
        return torch.cat([*branches, unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")], dim=1)

    x = pool(unit(clips, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, "Mixed_3b"), "Mixed_3c"), (3, 3, 3), (2, 2, 2))
    for letter in "bcdef":
        x = mixed(x, f"Mixed_4{letter}")
    x = mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), "Mixed_5b"), "Mixed_5c")
    x = F.avg_pool3d(x, (2, 7, 7), stride=1)
    return F.conv3d(x, state["logits.conv3d.weight"], state["logits.conv3d.bias"]).mean(dim=2).flatten(1)


@pytest.mark.slow
def test_the_network_is_the_one_of_its_table():
    """By random weights, without reference data."""
    network = I3D()
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith(("bn.weight", "running_var")):
            value.uniform_(1, 2, generator=generator)
        elif value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 25
            value.normal_(0, (2 / fan) ** 0.5, generator=generator)
    clips = torch.rand(1, 3, FEWEST_FRAMES, 224, 224, generator=generator) * 2 - 1
    with torch.inference_mode():
        found, expected = network(clips), defined(network.state_dict(), clips)
    assert found.shape == (1, 400) and found.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
