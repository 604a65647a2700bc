"""LoRAs on a network: merged weights are W + sums, in any order; scale 0 and removal leave every bit."""

import re
from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parametrize

from lavie.errors import CheckpointError, ConfigError
from lavie.models.lora import add_lora, load_lora, load_text_lora, merge_lora, remove_lora
from lavie.models.lora.read import read_lora
from lavie.models.text_encoder import ClipTextEncoder
from lavie.models.unet import VideoUNet
from lavie.testing import SHARED, TOLERANCES, relative_error, tiny_unet
from tests.markers import requires_shared
from tests.models.lora.files import made, made_text, save, save_diffusers, save_kohya
from tests.models.networks import tiny_interpolation

INPUTS = torch.randn(1, 4, 3, 8, 8), torch.tensor([300]), torch.randn(1, 5, 24)


def cloned(network):
    """The state dict, kept."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def same_bits(state, other):
    """Whether two state dicts have the same keys in the same order and the same bits."""
    bits = lambda value: value.contiguous().view(torch.int32 if value.dtype == torch.float32 else torch.int16)  # noqa: E731
    return list(state) == list(other) and all(torch.equal(bits(v), bits(other[k])) for k, v in state.items())


@pytest.fixture
def two(network, tmp_path):
    """Two files that change some of the same layers, with their changes."""
    first, second = made(network, mixed=True), made(network, "attention", seed=5)
    text = made_text()
    return (
        (save_kohya(tmp_path / "a.safetensors", first, text), first),
        (save_diffusers(tmp_path / "b.safetensors", second), second),
    )


def test_merged_weights_are_the_sums(network, two):
    (a, first), (b, second) = two
    before = cloned(network)
    report = load_lora(network, a, 0.7)
    load_lora(network, b, -0.4)
    loaded = network(*INPUTS)
    merge_lora(network)
    state = network.state_dict()
    for name, value in before.items():
        module = name.removesuffix(".weight")
        wanted = value.double()
        for scale, layers in ((0.7, first), (-0.4, second)):
            if name.endswith(".weight") and module in layers:
                wanted = wanted + scale * layers[module].delta
        assert float((state[name] - wanted).abs().max()) <= 1e-6, name
    assert list(state) == list(before)
    assert not any(parametrize.is_parametrized(module) for module in network.modules())
    assert relative_error(network(*INPUTS), loaded) < TOLERANCES[torch.float32]
    assert set(report.applied) == {f"{name}.weight" for name in first}
    assert set(report.skipped) == {f"{name}.weight" for name in made_text()}
    assert set(report.skipped.values()) == {"a layer of the text encoder: load_text_lora loads it"}
    assert f"{len(first)} weights changed, 12 left out" in str(report)


def test_the_order_does_not_matter(make_network, two):
    states = []
    for order in ((0, 1, 0), (0, 0, 1), (1, 0, 0)):
        network = make_network(tiny_unet())
        for number in order:
            load_lora(network, two[number][0], (0.3, 1.7)[number])
        merge_lora(network)
        states.append(cloned(network))
    for state in states[1:]:
        assert all(float((value - states[0][name]).abs().max()) <= 1e-6 for name, value in state.items())


def test_merging_one_by_one_is_merging_together(make_network, two):
    together, apart = make_network(tiny_unet()), make_network(tiny_unet())
    for path, _ in two:
        load_lora(together, path)
        load_lora(apart, path)
        merge_lora(apart)
    merge_lora(together)
    for name, value in apart.state_dict().items():
        assert float((value - together.state_dict()[name]).abs().max()) <= 1e-6


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_scale_0_and_removal_leave_every_bit(network, two, dtype):
    network.to(dtype)
    with torch.no_grad():
        network.conv_out.weight.mul_(-0.0)  # a sum with 0 would turn these into 0.0
        network.mid_block.resnets[0].conv1.weight.mul_(-0.0)
    before = cloned(network)
    load_lora(network, two[0][0], 0)
    merge_lora(network)
    assert same_bits(network.state_dict(), before)
    for path, _ in two:
        load_lora(network, path)
    remove_lora(network)
    assert same_bits(network.state_dict(), before)


def test_sixteen_bits_are_rounded_once(make_network, two):
    path = two[0][0]
    network, exact = make_network(tiny_unet()).bfloat16(), make_network(tiny_unet()).bfloat16().float()
    for either in (network, exact):
        load_lora(either, path)
        load_lora(either, two[1][0])
        merge_lora(either)
    state = exact.bfloat16().state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_files_and_adapters_that_train_add_up(network, two):
    before = cloned(network)
    load_lora(network, two[1][0])
    parameters = add_lora(network, "attention", rank=2)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(std=0.1)
    merge_lora(network)
    assert list(network.state_dict()) == list(before)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    trained = parameters[f"{name}.lora_B.weight"].double() @ parameters[f"{name}.lora_A.weight"].double()
    wanted = before[f"{name}.weight"] + two[1][1][name].delta + trained
    assert relative_error(network.state_dict()[f"{name}.weight"], wanted) < TOLERANCES[torch.float32]


def test_a_condition_beside_the_latents_keeps_its_weights(make_network, tmp_path):
    network = make_network(tiny_interpolation())
    before = network.conv_in.weight.detach().clone()
    delta = torch.randn(32, 4, 3, 3)
    report = load_lora(network, save(tmp_path / "a.safetensors", {"lora_unet_conv_in.diff": delta}))
    merge_lora(network)
    assert report.applied == ("conv_in.weight",)
    assert torch.equal(network.conv_in.weight[:, :4], before[:, :4] + delta)
    assert torch.equal(network.conv_in.weight[:, 4:], before[:, 4:])


@pytest.fixture
def encoder():
    """A tiny random CLIP text model of two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=60)
    return ClipTextEncoder(CLIPTextModel(CLIPTextConfig(**sizes)).eval(), None, 6)


def test_text_encoders_take_their_part(network, encoder, two):
    before = cloned(encoder.model)
    report = load_text_lora(encoder, two[0][0], 0.5)
    tokens = torch.tensor([[1, 2, 3]])
    loaded = encoder.model(tokens).last_hidden_state
    merge_lora(encoder.model)
    state, text = encoder.model.state_dict(), made_text()
    assert list(state) == list(before) and len(report.applied) == 12
    assert set(report.skipped.values()) == {"a layer of the UNet: load_lora loads it"}
    for name, value in before.items():
        layer = text.get(name.removeprefix("text_model.").removesuffix(".weight"))
        wanted = value.double() + (0.5 * layer.delta if layer and name.endswith("weight") else 0)
        assert float((state[name] - wanted).abs().max()) <= 1e-6
    assert relative_error(encoder.model(tokens).last_hidden_state, loaded) < TOLERANCES[torch.float32]


def test_a_text_part_of_another_encoder_is_refused(network, encoder, tmp_path):
    path = save_kohya(tmp_path / "a.safetensors", made(network, "attention"), made_text(3))
    with pytest.raises(CheckpointError, match=r"changes encoder.layers.2\.\S+.weight, which the text encoder"):
        load_text_lora(encoder, path)
    assert not any(parametrize.is_parametrized(module) for module in encoder.model.modules())


@pytest.mark.parametrize("scale", (float("nan"), 100.1, -1e30, "a", None, True))
def test_a_scale_is_a_number_of_its_range(network, two, scale):
    with pytest.raises(ConfigError, match=re.escape(f"scale is {scale!r}: wanted a number of -100 .. 100")):
        load_lora(network, two[0][0], scale)


def test_what_no_lora_acts_on_is_named(two):
    with pytest.raises(ConfigError, match="type Linear, wanted a VideoUNet"):
        load_lora(torch.nn.Linear(2, 2), two[0][0])
    with pytest.raises(ConfigError, match="type Linear, wanted a ClipTextEncoder"):
        load_text_lora(torch.nn.Linear(2, 2), two[0][0])


@requires_shared
@pytest.mark.slow
def test_the_real_file_fits_the_network_at_full_size():
    from lavie.config.model import UNetConfig

    with torch.device("meta"):
        network = VideoUNet(UNetConfig())
    before = list(network.state_dict())
    report = load_lora(network, SHARED / "assets/lora_sd15/analog_svd_rank4.safetensors")
    assert (len(report.applied), len(report.skipped)) == (144, 48)
    remove_lora(network)
    assert list(network.state_dict()) == before


@pytest.mark.parametrize("dtype, told", ((torch.float16, "not finite in float16"), (torch.float32, r"as large as \S+")))
def test_sums_that_no_network_has_are_refused(network, two, dtype, told):
    """In the dtype that the weights have; a file with a scale of 0 is not to blame."""
    (a, _), (b, _) = two
    file = read_lora(a, network)
    huge = {name: replace(change, multiplier=1e9) for name, change in file.unet.items()}
    network = network.to(dtype)
    load_lora(network, b, 0.0)
    load_lora(network, replace(file, unet=huge), 2.0)
    with pytest.raises(CheckpointError, match=rf"--lora \S*a.safetensors:2: \S+weight is {told} with the changes"):
        merge_lora(network)
