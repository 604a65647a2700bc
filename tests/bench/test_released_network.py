"""The released way, written out for benchmarks, is the released network."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lavie.bench.released_network import ReleasedNetwork
from lavie.errors import ConfigError
from lavie.models.unet import VideoUNet
from lavie.models.weights import load_official
from lavie.testing import GOLDEN_ATOL, SHARED, tiny_unet
from tests.markers import requires_shared


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
