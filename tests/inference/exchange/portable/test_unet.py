"""The network of `lavie_unet.py` is the one that is trained: same weights, same outputs, in every form that it has."""

import inspect
import runpy

import pytest
import torch

from lavie.config.model import UNetConfig
from lavie.inference.exchange.portable.files import unet_code
from lavie.testing import ORACLE_ATOL, tiny_unet
from tests.cascades import STAGE_MODELS, random_network

FORMS = (
    {},
    {"norm_statistics": "pooled"},
    {"temporal_module": "space_time", "relative_bias": False},
    {"temporal_position": "absolute"},
)


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """What the generated file defines, by name."""
    file = tmp_path_factory.mktemp("code") / "lavie_unet.py"
    file.write_text(unet_code())
    return runpy.run_path(str(file))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stage", STAGE_MODELS)
def test_equal_outputs(code, stage, form):
    config = tiny_unet(**STAGE_MODELS[stage] | form)
    network = random_network(config)
    same = code["VideoUNet"](**config.model_dump(mode="json")).eval()
    same.load_state_dict(network.state_dict())
    condition = config.in_channels - config.out_channels
    for frames, images in ((4, 0), (6, 2), (1, 1)):
        given = {"num_images": images}
        if condition:
            given["low_res"] = torch.randn(2, condition, frames, 8, 8)
        if config.num_noise_levels:
            given["noise_level"] = torch.tensor([1, 2])
        inputs = (
            torch.randn(2, config.out_channels, frames, 8, 8),
            torch.tensor([3, 700]),
            torch.randn(2, 1 + images, 5, config.cross_attention_dim),
        )
        with torch.no_grad():
            expected = network(*inputs, **given)
            assert expected.std() > 0.1
            torch.testing.assert_close(same(*inputs, **given), expected, rtol=0, atol=ORACLE_ATOL)


def test_keys_are_those_of_the_config(code):
    """A key that a network of this project gains must come to the file, with the same default."""
    found = {name: p.default for name, p in inspect.signature(code["VideoUNet"]).parameters.items()}
    assert found == UNetConfig().model_dump()


def test_adapters_of_peft_take_hold_of_every_layer(code):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = tiny_unet(**STAGE_MODELS["base"])
    network = code["VideoUNet"](**config.model_dump(mode="json"))
    network.load_state_dict(random_network(config).state_dict())
    layers = ["to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "conv1", "conv2", "time_emb_proj"]
    network.add_adapter(peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    sample, text = torch.randn(1, config.out_channels, 3, 8, 8), torch.randn(1, 5, config.cross_attention_dim)
    network(sample, torch.tensor([3]), text).square().sum().backward()
    adapters = {name: p for name, p in network.named_parameters() if "lora_" in name}
    assert len(adapters) > 50
    assert [name for name, p in adapters.items() if p.grad is None or not p.grad.any()] == []


def test_gradient_checkpointing_of_diffusers(code):
    config = tiny_unet(**STAGE_MODELS["base"])
    network = code["VideoUNet"](**config.model_dump(mode="json"))
    network.load_state_dict(random_network(config).state_dict())
    inputs = (
        torch.randn(1, config.out_channels, 3, 8, 8),
        torch.tensor([3]),
        torch.randn(1, 5, config.cross_attention_dim),
    )
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network(*inputs).square().sum().backward()
        gradients.append(network.conv_in.weight.grad.clone())
        network.enable_gradient_checkpointing()
    assert network.gradient_checkpointing
    assert torch.equal(*gradients)
