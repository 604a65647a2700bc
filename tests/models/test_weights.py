"""Weights go in and out strictly: what is missing, left over, misshapen or a program is an error that names it."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from lavie.errors import CheckpointError
from lavie.models.trainable import is_temporal
from lavie.models.unet import VideoUNet
from lavie.models.weights import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    initialize,
    load_network,
    load_stable_diffusion,
    save_network,
    to_official,
)
from lavie.run_folder import MANIFEST, checkpoints, newest_checkpoint
from lavie.testing import ORACLE_ATOL, tiny_unet
from tests.models.states import FREQUENCIES, add, drop, reshape


def same(network, state):
    own = network.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


@pytest.fixture
def released(network):
    """What a released file of that network holds."""
    return to_official("base", network)


@pytest.fixture
def fresh():
    torch.manual_seed(1)
    return VideoUNet(tiny_unet())


@pytest.fixture
def stable_diffusion(make_2d, tmp_path):
    """A Stable Diffusion folder in diffusers' format, with its UNet."""
    flat = make_2d(tiny_unet())
    flat.save_pretrained(tmp_path / "sd" / "unet")
    return tmp_path / "sd", flat


# --- a load that fails


def test_failed_loads_change_nothing(tmp_path, released, fresh):
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    del released["conv_out.bias"]
    torch.save(released, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match=r"conv_out.bias"):
        initialize(fresh, tmp_path / "base.pt")
    assert same(fresh, before)


# --- a condition joins the input


def test_a_base_network_extends_to_a_condition(network, tmp_path):
    save_network(tmp_path / "unet", network.config, network.state_dict())
    wider = VideoUNet(tiny_unet(in_channels=8, relative_bias=False))
    report = initialize(wider, tmp_path)
    own, base = wider.state_dict(), network.state_dict()
    assert torch.equal(own["conv_in.weight"][:, :4], base["conv_in.weight"]) and not own["conv_in.weight"][:, 4:].any()
    assert all(torch.equal(own[name], base[name]) for name in own if name != "conv_in.weight")
    assert set(report.unused) == {n for n in base if "time_rel_pos_bias" in n} and set(report.loaded) == set(own)


@pytest.mark.parametrize("source", ("folder", "released file"))
def test_a_network_that_takes_frames_starts_as_the_one_it_was_made_of(network, released, tmp_path, source):
    if source == "folder":
        save_network(tmp_path / "unet", network.config, network.state_dict())
        place = tmp_path
    else:
        torch.save({"ema": released}, place := tmp_path / "base.pt")
    wider = VideoUNet(tiny_unet(in_channels=9)).eval()
    initialize(wider, place)
    generator = torch.Generator().manual_seed(3)
    sample, condition = torch.randn(2, 9, 5, 8, 8, generator=generator).split([4, 5], 1)
    text = torch.randn(2, 2, 6, network.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        expected = network.eval()(sample, torch.tensor([10, 900]), text, num_images=1)
        got = wider(sample, torch.tensor([10, 900]), text, low_res=condition, num_images=1)
    assert (got - expected).abs().max() <= ORACLE_ATOL


def test_channels_of_another_condition_are_not_taken_for_the_frames(tmp_path):
    other = VideoUNet(tiny_unet(in_channels=8))
    save_network(tmp_path / "unet", other.config, other.state_dict())
    with pytest.raises(CheckpointError, match="reads 8 channels, those of another condition: wanted 4"):
        initialize(VideoUNet(tiny_unet(in_channels=9)), tmp_path)


def test_only_the_input_may_differ_when_extending(network, tmp_path):
    save_network(tmp_path / "unet", network.config, network.state_dict())
    with pytest.raises(CheckpointError, match="of another shape"):
        initialize(VideoUNet(tiny_unet(in_channels=8, cross_attention_dim=32)), tmp_path)


# --- Stable Diffusion


def test_stable_diffusion_fills_the_spatial_part(make_2d):
    flat = make_2d(tiny_unet())
    network = load_stable_diffusion(flat.state_dict(), tiny_unet())
    own = network.state_dict()
    assert same(flat, {name: own[name] for name in flat.state_dict()})
    assert all(is_temporal(name) for name in own.keys() - flat.state_dict().keys())
    from_dict = load_stable_diffusion(flat.state_dict(), dict(flat.config))
    assert from_dict.config == tiny_unet(num_attention_heads=(1, 1), norm_statistics="pooled")


@pytest.mark.parametrize("damage", (drop, add, reshape))
def test_stable_diffusion_must_fit(make_2d, damage):
    state = dict(make_2d(tiny_unet()).state_dict())
    what = damage(state, "mid_block.resnets.0.conv1.weight")
    with pytest.raises(CheckpointError, match=f"{what}: mid_block.resnets.0.conv1.weight"):
        load_stable_diffusion(state, tiny_unet())


def test_temporal_keys_are_unexpected_in_a_2d_model(released):
    with pytest.raises(CheckpointError, match=r"unexpected: .*attn_temp"):
        load_stable_diffusion(released, tiny_unet())


# --- initialize: by the form of what lies there


@pytest.mark.parametrize("wrap", (lambda s: s, lambda s: {"ema": s}, lambda s: {"ema": s, "epoch": 3}))
def test_initialize_from_a_released_file(tmp_path, network, released, fresh, wrap):
    torch.save(wrap(released), tmp_path / "base.pt")
    report = initialize(fresh, tmp_path / "base.pt")
    assert same(fresh, network.state_dict())
    assert report.loaded == tuple(sorted(network.state_dict())) and report.fresh == ()
    assert report.unused == tuple(sorted(name for name in released if name.endswith(FREQUENCIES)))
    assert str(report) == f"{tmp_path / 'base.pt'}: {len(report.loaded)} tensors loaded, 0 fresh, 4 unused"


@pytest.mark.parametrize("inside", ("", "unet"))
def test_initialize_from_stable_diffusion(stable_diffusion, fresh, inside):
    folder, flat = stable_diffusion
    temporal = {name: value.clone() for name, value in fresh.state_dict().items() if is_temporal(name)}
    report = initialize(fresh, folder / inside)
    assert same(fresh, {**flat.state_dict(), **temporal})
    assert report.loaded == tuple(sorted(flat.state_dict()))
    assert report.fresh == tuple(sorted(temporal)) and report.unused == ()


def test_initialize_from_sharded_stable_diffusion(tmp_path, make_2d, fresh):
    flat = make_2d(tiny_unet())
    flat.save_pretrained(tmp_path / "unet", max_shard_size="1MB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    initialize(fresh, tmp_path)
    own = fresh.state_dict()
    assert same(flat, {name: own[name] for name in flat.state_dict()})
    first = sorted((tmp_path / "unet").glob("*.safetensors"))[0]
    first.unlink()
    with pytest.raises(CheckpointError, match=first.name):
        initialize(fresh, tmp_path)


@pytest.mark.parametrize("inside", ("", "unet"))
def test_initialize_from_our_folders(tmp_path, network, fresh, inside):
    """A network folder, or a checkpoint that holds one as unet/."""
    save_network(tmp_path / "run" / inside, network.config, network.state_dict())
    report = initialize(fresh, tmp_path / "run")
    assert same(fresh, network.state_dict())
    assert report.loaded == tuple(sorted(network.state_dict())) and not report.fresh and not report.unused


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_do_not_execute(tmp_path, fresh):
    torch.save({"ema": Payload(tmp_path / "executed")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt: wanted a \.pt of plain tensors"):
        initialize(fresh, tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", (torch.zeros(3), [1, 2], {"ema": 3}, {"ema": {"conv_in.weight": 1.0}}, {1: torch.zeros(1)})
)
def test_files_without_a_state_dict_are_refused(tmp_path, fresh, content):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt"):
        initialize(fresh, tmp_path / "odd.pt")


def test_what_is_no_torch_file_is_refused(tmp_path, fresh):
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        initialize(fresh, tmp_path / "text.pt")


def test_folders_that_are_something_else_are_refused(tmp_path, stable_diffusion, fresh):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(CheckpointError, match=f"{path}: wanted a .pt file, a checkpoint folder or a Stable"):
            initialize(fresh, path)
    unet = stable_diffusion[0] / "unet"
    config = json.loads((unet / CONFIG_NAME).read_text())
    (unet / CONFIG_NAME).write_text(json.dumps({**config, "_class_name": "AutoencoderKL"}))
    with pytest.raises(CheckpointError, match="_class_name is 'AutoencoderKL', wanted VideoUNet or UNet2D"):
        initialize(fresh, stable_diffusion[0])
    (unet / CONFIG_NAME).write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: wanted JSON"):
        initialize(fresh, stable_diffusion[0])


def test_folders_without_usable_weights_are_refused(tmp_path, network, fresh):
    save_network(tmp_path, network.config, network.state_dict())
    weights = tmp_path / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-1000])
    for load in (lambda: initialize(fresh, tmp_path), lambda: load_network(tmp_path)):
        with pytest.raises(CheckpointError, match=f"{WEIGHTS_NAME}: no complete safetensors"):
            load()
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")
    for load in (lambda: initialize(fresh, tmp_path), lambda: load_network(tmp_path)):
        with pytest.raises(CheckpointError, match=f"{WEIGHTS_NAME} is missing; weights are read from safetensors only"):
            load()


def test_index_cannot_lead_out_of_the_folder(tmp_path, network, fresh):
    save_network(tmp_path / "unet", network.config, network.state_dict())
    (tmp_path / "unet" / WEIGHTS_NAME).rename(tmp_path / WEIGHTS_NAME)
    index = {"weight_map": dict.fromkeys(network.state_dict(), f"../{WEIGHTS_NAME}")}
    (tmp_path / "unet" / (WEIGHTS_NAME + ".index.json")).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"../{WEIGHTS_NAME} is missing"):
        initialize(fresh, tmp_path)


def test_another_size_names_the_section_to_change(tmp_path, network):
    save_network(tmp_path, network.config, network.state_dict())
    with pytest.raises(CheckpointError, match=r"block_out_channels is \(32, 64\), this run's model.block_out_channels"):
        initialize(VideoUNet(tiny_unet(block_out_channels=(64, 64))), tmp_path)
    torch.save(to_official("base", network), tmp_path / "released.pt")
    with pytest.raises(CheckpointError, match=r"of another shape: conv_in.*check the section model"):
        initialize(VideoUNet(tiny_unet(block_out_channels=(64, 64))), tmp_path / "released.pt")


# --- our own folders


@pytest.mark.parametrize(
    "changes", ({}, dict(norm_statistics="pooled", relative_bias=False, num_attention_heads=(1, 2)))
)
def test_saved_networks_come_back_bit_for_bit(tmp_path, make_network, changes):
    network = make_network(tiny_unet(**changes))
    save_network(tmp_path / "a" / "b", network.config, network.state_dict())
    loaded = load_network(tmp_path / "a" / "b")
    assert loaded.config == network.config and not loaded.training
    assert same(loaded, network.state_dict())
    assert load_network(tmp_path / "a" / "b", dtype=torch.bfloat16).conv_in.weight.dtype == torch.bfloat16


def test_saved_networks_are_checked(tmp_path, network, stable_diffusion):
    with pytest.raises(CheckpointError, match="absent"):
        load_network(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="wanted _class_name VideoUNet"):
        load_network(stable_diffusion[0] / "unet")
    state = dict(network.state_dict())
    del state["conv_out.bias"]
    save_network(tmp_path, network.config, state)
    with pytest.raises(CheckpointError, match=r"1 missing: conv_out.bias"):
        load_network(tmp_path)
    save_file({**network.state_dict(), "extra": torch.zeros(1)}, tmp_path / WEIGHTS_NAME)
    with pytest.raises(CheckpointError, match="1 unexpected: extra"):
        load_network(tmp_path)


def test_newest_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint-<step> folder"):
        newest_checkpoint(tmp_path)
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11", "checkpoint-x", ".checkpoint-12.partial"):
        (tmp_path / name).mkdir()
        if name != "checkpoint-11":  # was interrupted
            (tmp_path / name / MANIFEST).write_text("{}")
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert newest_checkpoint(str(tmp_path / "checkpoint-9")) == tmp_path / "checkpoint-9"
    with pytest.raises(CheckpointError, match="checkpoint-11"):
        newest_checkpoint(tmp_path / "checkpoint-11")


def test_initialize_from_a_run_takes_its_newest_checkpoint_and_minds_the_config(tmp_path, caplog):
    trained = VideoUNet(tiny_unet())
    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        with torch.no_grad():
            trained.conv_in.bias.fill_(step)
        save_network(folder / "unet", trained.config, trained.state_dict())
        (folder / "checkpoint.json").write_text("{}")
    network = VideoUNet(tiny_unet())
    initialize(network, tmp_path)
    assert (network.conv_in.bias == 10).all()
    with pytest.raises(CheckpointError, match=r"rotary_dim is 32, this run's model.rotary_dim is 16"):
        initialize(VideoUNet(tiny_unet(rotary_dim=16)), tmp_path)
    with caplog.at_level("INFO", logger="lavie"):
        initialize(VideoUNet(tiny_unet(norm_statistics="pooled")), tmp_path)
    assert "trained with norm_statistics separate, goes on with pooled" in caplog.text
