"""W + scale (W_community - W_original): equal to a calculation by hand, and the identity where nothing is added."""

import pytest
import torch

from lavie.errors import CheckpointError
from lavie.models.add_difference import add_difference
from lavie.models.trainable import is_temporal
from lavie.models.unet import VideoUNet
from lavie.testing import TOLERANCES, relative_error
from tests.models.ldm_files import flat_unet, ldm_unet, random_values, tiny_network


def bits(state):
    return {name: value.clone() for name, value in state.items()}


def same(a, b):
    """Whether two state dicts agree to the bit, signs of zeros included."""
    integer = {4: torch.int32, 2: torch.int16}
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(*(s[k].view(integer[s[k].element_size()]) for s in (a, b))) for k in a
    )


@pytest.fixture
def network():
    """A video network, some of whose weights are -0.0."""
    network = random_values(VideoUNet(tiny_network()), 5)
    with torch.no_grad():
        network.conv_in.bias.fill_(-0.0)
    return network


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A community checkpoint as a .ckpt, and its original as a folder in diffusers' format."""
    folder = tmp_path_factory.mktemp("files")
    flat_unet().save_pretrained(folder / "sd/unet")
    torch.save(
        {"state_dict": ldm_unet(dict(flat_unet(seed=1).state_dict()), tiny_network())}, folder / "community.ckpt"
    )
    return folder / "community.ckpt", folder / "sd"


@pytest.mark.parametrize("scale", (0.3, 1.0, 2.0))
def test_the_sum_is_the_one_by_hand(network, files, scale):
    before = bits(network.state_dict())
    new, old = flat_unet(seed=1).state_dict(), flat_unet().state_dict()
    report = add_difference(network, *files, scale)
    for name, value in network.state_dict().items():
        if is_temporal(name):
            assert torch.equal(value, before[name])
        else:
            expected = before[name].double() + scale * (new[name].double() - old[name].double())
            assert relative_error(value, expected) <= TOLERANCES[torch.float32]
            assert torch.equal(value, before[name] + scale * (new[name] - old[name]))
    assert set(report.changed) == set(new) and not report.equal
    assert str(report) == f"added {scale:g} x ({files[0]} - {files[1]}): {len(new)} tensors differ, 0 are equal"


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16))
def test_a_scale_of_zero_is_the_identity_to_the_bit(network, files, dtype):
    network = network.to(dtype)
    before = bits(network.state_dict())
    report = add_difference(network, *files, 0.0)
    assert same(bits(network.state_dict()), before)
    assert len(report.changed) == len(flat_unet().state_dict())  # the files are read and compared all the same


def test_two_that_agree_add_nothing_to_the_bit(network, files):
    before = bits(network.state_dict())
    report = add_difference(network, files[1], files[1] / "unet", 1.0)
    assert same(bits(network.state_dict()), before)
    assert not report.changed and len(report.equal) == len(flat_unet().state_dict())


def test_what_a_file_of_16_bits_left_as_it_was_adds_nothing(network, files, tmp_path):
    """Rounding alone would be a difference."""
    community = {name: value.half() for name, value in flat_unet().state_dict().items()}
    community["conv_out.weight"] = community["conv_out.weight"] + 1
    torch.save({"state_dict": ldm_unet(community, tiny_network())}, tmp_path / "half.ckpt")
    before = bits(network.state_dict())
    report = add_difference(network, tmp_path / "half.ckpt", files[1], 1.0)
    after = bits(network.state_dict())
    assert report.changed == ("conv_out.weight",)
    assert same(
        {k: v for k, v in after.items() if k not in report.changed},
        {k: before[k] for k in report.equal} | {k: v for k, v in before.items() if is_temporal(k)},
    )
    step = community["conv_out.weight"].float() - flat_unet().state_dict()["conv_out.weight"].half().float()
    assert torch.equal(after["conv_out.weight"], before["conv_out.weight"] + step)


def test_half_a_network_is_added_to_in_float32_and_rounded_once(network, files):
    network = network.half()
    before = bits(network.state_dict())
    add_difference(network, *files, 0.5)
    name = "mid_block.resnets.0.conv1.weight"
    step = 0.5 * (flat_unet(seed=1).state_dict()[name] - flat_unet().state_dict()[name])
    assert torch.equal(network.state_dict()[name], (before[name].float() + step).half())


def test_channels_of_a_condition_stay(files):
    network = random_values(VideoUNet(tiny_network(in_channels=8)), 5)
    before = network.conv_in.weight.clone()
    add_difference(network, *files, 1.0)
    assert torch.equal(network.conv_in.weight[:, 4:], before[:, 4:])
    name = "conv_in.weight"
    step = flat_unet(seed=1).state_dict()[name] - flat_unet().state_dict()[name]
    assert torch.equal(network.conv_in.weight[:, :4], before[:, :4] + step)


def test_averaged_weights_are_taken_of_the_file_that_has_some(network, files, tmp_path):
    plain, average = (dict(flat_unet(seed=seed).state_dict()) for seed in (1, 2))
    torch.save({"state_dict": ldm_unet(plain, tiny_network(), averaged=average)}, tmp_path / "a.ckpt")
    before = network.conv_out.weight.clone()
    report = add_difference(network, tmp_path / "a.ckpt", files[1], 1.0, extract_ema=True)
    step = average["conv_out.weight"] - flat_unet().state_dict()["conv_out.weight"]
    assert torch.equal(network.conv_out.weight, before + step)
    assert report.averaged and str(report).endswith(", averaged weights")
    assert not add_difference(network, *files, 0.0, extract_ema=True).averaged


def test_what_does_not_fit_changes_nothing(network, files, tmp_path):
    before = bits(network.state_dict())
    flat_unet(in_channels=9).save_pretrained(tmp_path / "inpainting/unet")
    flat_unet(block_out_channels=(64, 64)).save_pretrained(tmp_path / "wide/unet")
    broken = ldm_unet(dict(flat_unet().state_dict()), tiny_network())
    name = "model.diffusion_model.out.2.bias"
    torch.save({"state_dict": broken | {name: torch.full((4,), torch.nan)}}, tmp_path / "nan.ckpt")
    for path, words in (
        ("inpainting", "is an inpainting checkpoint"),
        ("wide", "does not fit the network"),
        ("nan.ckpt", "nan.ckpt: conv_out.bias has values that are not finite"),
        ("nothing", "wanted a .safetensors or .ckpt of Stable Diffusion, or a folder of it"),
    ):
        for pair in ((tmp_path / path, files[1]), (files[0], tmp_path / path)):
            with pytest.raises(CheckpointError, match=words):
                add_difference(network, *pair, 0.5)
    assert same(bits(network.state_dict()), before)


def test_a_sum_that_the_dtype_does_not_hold_is_refused(network, files):
    network = network.half()
    before = bits(network.state_dict())
    with pytest.raises(CheckpointError, match="is not finite in float16: give a smaller scale"):
        add_difference(network, *files, 1e7)
    assert same(bits(network.state_dict()), before)
