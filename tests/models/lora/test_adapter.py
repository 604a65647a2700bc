"""Adapters that train: W + alpha / r B A in every layer, plain names for what is saved, and nothing else changed."""

import hashlib

import pytest
import torch
from torch.nn.utils import parametrize

from lavie.config.model import UNetConfig
from lavie.errors import CheckpointError, ConfigError
from lavie.models.lora import add_lora, merge_lora, remove_lora
from lavie.models.lora.adapter import (
    adapter_state,
    base_state,
    draw_dropout,
    is_adapter,
    load_adapter_state,
    merged_state,
    plain_name,
    target_modules,
)
from lavie.models.unet import VideoUNet
from lavie.testing import TOLERANCES, relative_error, tiny_unet
from tests.models.networks import tiny_vsr

INPUTS = {
    "sample": torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double(),
    "timestep": torch.tensor([300]),
    "encoder_hidden_states": torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(2)).double(),
}


def hashes(state):
    """The SHA-256 of each tensor's bytes."""
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}


@pytest.fixture
def trained(network):
    """A network in float64 with adapters whose B is not zero any more, and its state dict of before."""
    before = {name: value.clone() for name, value in network.double().state_dict().items()}
    parameters = add_lora(network, "conv", rank=3, alpha=6)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return network, parameters, before


def explicit(parameters, before, scale):
    """W + scale * B A by hand, as a state dict."""
    state = {name: value.clone() for name, value in before.items()}
    for name, up in parameters.items():
        if "lora_B" in name:
            module = name.removesuffix(".lora_B.weight")
            down = parameters[f"{module}.lora_A.weight"]
            weight = state[f"{module}.weight"]
            for row in range(len(weight)):
                weight[row] += scale * sum(up[row, i].item() * down[i].detach() for i in range(3))
    return state


def test_the_network_computes_with_the_sums(trained):
    network, parameters, before = trained
    state = explicit(parameters, before, 6 / 3)
    plain = VideoUNet(network.config).double()
    plain.load_state_dict(state)
    output = network(**INPUTS).detach()
    assert relative_error(output, plain(**INPUTS)) < TOLERANCES[torch.float64]
    plain.load_state_dict(before)
    assert relative_error(output, plain(**INPUTS)) > 1e-2
    assert all(relative_error(value, state[name]) < 1e-15 for name, value in merged_state(network).items())


def test_every_adapter_gets_the_gradient_of_the_sum(trained):
    network, parameters, before = trained
    plain = VideoUNet(network.config).double()
    plain.load_state_dict(explicit(parameters, before, 2.0))
    for either in (network, plain):
        either(**INPUTS).square().sum().backward()
    weights = dict(plain.named_parameters())
    for name, parameter in parameters.items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        module, _, kind = name.removesuffix(".weight").rpartition(".")
        gradient = weights[f"{module}.weight"].grad.flatten(1)
        up, down = (parameters[f"{module}.lora_{k}.weight"].detach().flatten(1) for k in "BA")
        wanted = gradient @ down.T if kind == "lora_B" else up.T @ gradient
        assert relative_error(parameter.grad.flatten(1), 2.0 * wanted) < 1e-10, name
    assert {name for name, p in network.named_parameters() if p.grad is not None} == {
        name for name, _ in network.named_parameters() if is_adapter(name)
    }


def test_only_adapters_train_and_the_start_is_the_same_function(network):
    network.double()
    before, output = hashes(network.state_dict()), network(**INPUTS)
    parameters = add_lora(network, "kohya", rank=2)
    assert torch.equal(network(**INPUTS), output)
    assert [p for p in network.parameters() if p.requires_grad] == list(parameters.values())
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    for _ in range(2):  # A has no gradient while B is zero
        optimizer.zero_grad()
        network(**INPUTS).square().mean().backward()
        optimizer.step()
    assert not torch.equal(network(**INPUTS), output)
    assert hashes(base_state(network)) == before
    remove_lora(network)
    assert hashes(network.state_dict()) == before and torch.equal(network(**INPUTS), output)


def test_merging_leaves_a_plain_network(trained):
    network, _, before = trained
    output, state = network(**INPUTS).detach(), merged_state(network)
    merge_lora(network)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(parametrize.is_parametrized(module) for module in network.modules())
    assert all(type(module).__name__ in ("Linear", "Conv2d") for module in target_modules(network, "conv").values())
    assert relative_error(network(**INPUTS), output) < TOLERANCES[torch.float64]


def test_saved_names_are_plain(trained, tmp_path):
    network, parameters, before = trained
    assert set(base_state(network)) == set(before)
    assert set(adapter_state(network)) == set(parameters)
    assert {plain_name(name) for name, _ in network.named_parameters()} == {*before, *parameters}
    assert plain_name("down_blocks.0.resnets.0.conv1.bias") == "down_blocks.0.resnets.0.conv1.bias"

    other = VideoUNet(network.config).double()
    other.load_state_dict(base_state(network))
    add_lora(other, "conv", rank=3, alpha=6, seed=1)
    load_adapter_state(other, adapter_state(network))
    assert torch.equal(other(**INPUTS), network(**INPUTS))
    with pytest.raises(CheckpointError, match=r"does not fit the network \(keys 1 missing: .*lora_A.weight\)"):
        load_adapter_state(other, dict(list(adapter_state(network).items())[1:]))
    remove_lora(other)
    with pytest.raises(CheckpointError, match="no adapters"):
        load_adapter_state(other, adapter_state(network))


def test_a_is_gaussian_and_a_function_of_seed_and_name(make_network):
    drawn = []
    for seed, targets in ((0, "attention"), (0, "conv"), (1, "attention")):
        drawn.append(add_lora(make_network(tiny_unet()), targets, rank=8, seed=seed))
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())
    assert not any(torch.equal(value, drawn[2][name]) for name, value in drawn[0].items() if "lora_A" in name)
    values = torch.cat([value.flatten() for name, value in drawn[1].items() if "lora_A" in name])
    assert abs(float(values.std()) * 8 - 1) < 0.02 and abs(float(values.mean())) < 0.002
    assert not any(value.any() for name, value in drawn[1].items() if "lora_B" in name)


def test_dropout_leaves_out_ranks_of_training_steps_alone(trained):
    network, _, before = trained
    remove_lora(network)
    output = network(**INPUTS)
    again = add_lora(network, "attention", rank=8, dropout=0.5)
    with torch.no_grad():
        for parameter in again.values():
            parameter.normal_(std=0.1)
    whole = network.eval()(**INPUTS)
    seen = []
    for step in (0, 1, 0):
        draw_dropout(network, seed=3, step=step)
        seen.append(network.train()(**INPUTS))
        assert torch.equal(network.eval()(**INPUTS), whole)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], output)
    keep = torch.cat([m.keep for m in network.modules() if getattr(m, "keep", None) is not None])
    assert set(keep.tolist()) == {0.0, 2.0} and 0.3 < float((keep == 0).double().mean()) < 0.7
    network.train()
    assert torch.equal(merged_state(network)["conv_in.weight"], before["conv_in.weight"])
    plain = VideoUNet(network.config).double()
    plain.load_state_dict(merged_state(network))
    assert relative_error(plain(**INPUTS), whole) < TOLERANCES[torch.float64]


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets, rank, layers, numbers",
    (
        ("attention", 4, 128, 797_184),
        ("attention", 16, 128, 3_188_736),
        ("kohya", 16, 192, 6_782_976),
        ("conv", 4, 278, 1_695_744 + 2_507_520),
    ),
)
def test_the_sizes_at_full_width(targets, rank, layers, numbers):
    with torch.device("meta"):
        network = VideoUNet(UNetConfig())
    parameters = add_lora(network, targets, rank)
    assert (len(parameters), sum(p.numel() for p in parameters.values())) == (2 * layers, numbers)
    assert not any("temp" in name or "time_embedding" in name or "conv_in" in name for name in parameters)


def test_super_resolution_takes_adapters_too():
    names = target_modules(VideoUNet(tiny_vsr()), "kohya")
    assert not any("temporal" in name or "_temp" in name for name in names)
    assert sum(name.endswith("proj_in") for name in names) == len(names) / 12


@pytest.mark.parametrize(
    "values, message",
    (
        ({"targets": "all"}, "lora.targets is 'all': wanted attention, kohya or conv"),
        ({"rank": 0}, "lora.rank is 0: wanted 1 or more"),
        ({"rank": 33}, r"lora.rank is 33, and \S+ has a width of 32: wanted 32 or less"),
        ({"alpha": 0}, "lora.alpha is 0: wanted a number above 0"),
        ({"alpha": float("nan")}, "lora.alpha is nan"),
        ({"dropout": 1.0}, "lora.dropout is 1: wanted 0 or more, and less than 1"),
    ),
)
def test_what_cannot_be_is_refused(network, values, message):
    with pytest.raises(ConfigError, match=message):
        add_lora(network, **({"targets": "kohya", "rank": 2} | values))
    assert not any(parametrize.is_parametrized(module) for module in network.modules())
