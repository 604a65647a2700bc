"""The released way is the released network, and ours needs less than it: bytes, launches and copies are counted."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lavie.bench import training_pass
from lavie.bench.released_network import ReleasedNetwork
from lavie.bench.training_pass import count, middle_network, ways
from lavie.errors import ConfigError
from lavie.models.unet import VideoUNet
from lavie.models.weights import load_official
from lavie.testing import GOLDEN_ATOL, LOSS_RTOL, SHARED, relative_error, tiny_unet
from tests.markers import requires_shared

GRADIENTS = 1e-4
"""Relative L2 error of all gradients as one vector in float32, through some 200 operations in a row."""


@requires_shared
@pytest.mark.parametrize("fused", (True, False))
@pytest.mark.parametrize("case,images", (("", 0), ("joint.", 2)))
def test_the_released_way_gives_what_the_released_code_gave(case, images, fused):
    tensors = load_file(SHARED / "golden/base.safetensors")
    config = json.loads((SHARED / "golden/base.json").read_text())["config"]
    names = ("sample", "timestep", "encoder_hidden_states")
    given = [tensors[f"{case}input.{name}"] for name in names]
    state = {name: value for name, value in tensors.items() if ".input." not in f".{name}" and "output" not in name}
    network = ReleasedNetwork(load_official("base", state, config), fused_attention=fused)
    with torch.no_grad():
        actual = network(*given, num_images=images)
    assert float((actual - tensors[f"{case}output"]).abs().max()) <= GOLDEN_ATOL


@pytest.mark.parametrize("change", (dict(norm_statistics="separate"), dict(temporal_convolutions=True)))
def test_networks_of_other_kinds_are_refused(change):
    with pytest.raises(ConfigError, match="the released way is written for base networks"):
        ReleasedNetwork(VideoUNet(tiny_unet(**{"norm_statistics": "pooled"} | change)))


@pytest.mark.slow
def test_ours_needs_less_than_the_released_way():
    """What docs/performance.md says is kept, and that both compute the same."""
    network = middle_network()
    both = ways(network)
    passes, gradients = {}, {}
    for name in ("ours", "released, SDPA"):
        passes[name] = count(*both[name])
        gradients[name] = torch.cat([p.grad.flatten() for p in network.parameters()])
    ours, released = passes.values()
    assert ours.loss == pytest.approx(released.loss, rel=LOSS_RTOL)
    assert relative_error(*gradients.values()) <= GRADIENTS
    assert ours.alive <= 0.6 * released.alive
    assert ours.forward.launches + ours.backward.launches <= 0.6 * (
        released.forward.launches + released.backward.launches
    )
    assert not ours.forward.copies


@pytest.mark.slow
def test_the_command_prints_counts_and_ratios(monkeypatch, capsys):
    monkeypatch.setattr(training_pass, "MIDDLE", tiny_unet(norm_statistics="pooled"))
    monkeypatch.setattr(training_pass, "SIZE", (4, 4))
    monkeypatch.setattr("sys.argv", ["training_pass", "--rounds", "1"])
    training_pass.main()
    printed = capsys.readouterr().out
    assert "alive after forward, MiB" in printed and "ours is 1.00x as fast" in printed
