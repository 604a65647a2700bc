"""Adapters of a run on disk: what identifies their base, and the refusals in one line."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lavie.config.train import TrainConfig
from lavie.errors import CheckpointError
from lavie.models.lora import add_lora, read_lora
from lavie.models.lora.adapter import adapter_state, base_state, merged_state
from lavie.models.lora.trained import (
    Base,
    base_path,
    build_base,
    has_adapters,
    identity,
    load_adapted,
    read_base,
    write_adapters,
)
from lavie.models.unet import VideoUNet
from lavie.models.weights import save_network
from lavie.testing import TOLERANCES, relative_error, tiny_unet
from lavie.training.trainer import build_network
from tests.models.ldm_files import flat_unet, ldm_unet, tiny_network

MODEL = tiny_unet(in_channels=3, out_channels=3)


@pytest.fixture
def run(tmp_path):
    return TrainConfig(
        output_dir="run",
        model=MODEL,
        text_encoder={"type": "hash"},
        autoencoder={"type": "patch", "patch_size": 2, "coefficients": 1},
        init_weights=str(tmp_path / "base"),
        trainable="lora",
        max_train_steps=1,
        data={"train": "clips", "fps": 8, "num_images": 0},
    )


@pytest.fixture
def adapted(tmp_path):
    """A checkpoint of adapters whose B is not zero, their network, and their base."""
    torch.manual_seed(3)
    network = VideoUNet(MODEL)
    save_network(tmp_path / "base", MODEL, network.state_dict())
    known = identity(network.state_dict())
    for parameter in add_lora(network, "conv", rank=2, alpha=3).values():
        parameter.data.normal_(std=0.05)
    folder = tmp_path / "checkpoint"
    (folder / "lora").mkdir(parents=True)
    files = write_adapters(folder, adapter_state(network), 1.5, Base(str(tmp_path / "base"), known))
    return folder, network, files


def test_the_merged_network_is_that_of_the_adapters(adapted, run):
    folder, network, _ = adapted
    assert has_adapters(folder)
    loaded = load_adapted(folder, run).state_dict()
    for name, value in merged_state(network).items():
        assert relative_error(loaded[name], value) < TOLERANCES[torch.float32], name


def test_the_file_has_the_export_layout_and_its_record_is_true(adapted):
    folder, network, files = adapted
    assert set(files) == {"lora/pytorch_lora_weights.safetensors", "lora/base.json"}
    for name, record in files.items():
        assert (folder / name).stat().st_size == record["bytes"]
    lora = read_lora(folder / "lora", network)
    assert len(lora.unet) == len(adapter_state(network)) / 2
    assert all(change.multiplier == 1 for change in lora.unet.values())


def test_the_identity_tells_one_bit_and_knows_no_layout(adapted):
    _, network, _ = adapted
    state = network.state_dict()
    same = dict(reversed([(name, value.clone()) for name, value in state.items()]))
    assert identity(state) == identity(same)
    last = next(reversed(same.values()))
    last.view(-1).view(torch.int32)[0] ^= 1
    assert identity(state) != identity(same)


def test_a_base_is_built_alike_whatever_was_drawn_before(adapted, run, tmp_path):
    first = identity(build_base(run, tmp_path / "base").state_dict())
    before = torch.get_rng_state()
    assert first == identity(build_base(run, tmp_path / "base").state_dict())
    assert torch.equal(before, torch.get_rng_state())


def test_a_base_is_what_the_run_began_with_whatever_was_added(tmp_path):
    """A difference (add_difference) and averaged weights of single files (extract_ema) are part of it."""
    flat = [dict(flat_unet(seed=seed).state_dict()) for seed in (0, 1, 2)]
    save_file(ldm_unet(flat[0], tiny_network()), tmp_path / "start.safetensors")
    save_file(ldm_unet(flat[0], tiny_network(), averaged=flat[1]), tmp_path / "theirs.safetensors")
    save_file(ldm_unet(flat[2], tiny_network()), tmp_path / "original.safetensors")
    added = {"weights": str(tmp_path / "theirs.safetensors"), "original": str(tmp_path / "original.safetensors")}
    config = TrainConfig(
        output_dir="run",
        model=tiny_network(),
        text_encoder={"type": "hash"},
        autoencoder={"type": "diffusers"},
        pretrained_model_name_or_path="unused",
        init_weights=str(tmp_path / "start.safetensors"),
        extract_ema=True,
        add_difference=added,
        trainable="lora",
        max_train_steps=1,
        data={"train": "clips", "fps": 8, "num_images": 0},
    )
    began = base_state(build_network(config))
    assert identity(began) == identity(build_base(config, tmp_path / "start.safetensors").state_dict())
    expected = flat[0]["conv_out.weight"] + 0.5 * (flat[1]["conv_out.weight"] - flat[2]["conv_out.weight"])
    assert torch.equal(began["conv_out.weight"], expected)


def test_the_path_of_a_base_is_absolute(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert base_path("base") == tmp_path / "base"


def test_a_damaged_reference_is_refused(adapted):
    folder, _, _ = adapted
    (folder / "lora" / "base.json").write_text(json.dumps({"path": "x"}))
    with pytest.raises(CheckpointError, match="wanted the texts path and sha256"):
        read_base(folder)
