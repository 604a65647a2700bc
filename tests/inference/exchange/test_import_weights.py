"""Released files keep every bit both ways and their outputs; 2-D UNets are inflated; anything else is refused."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lavie.cli import main as cli
from lavie.config.load import load_config
from lavie.config.stages import STAGES
from lavie.errors import CheckpointError, ConfigError
from lavie.inference.cascade import Cascade
from lavie.inference.exchange.export import CONSTANTS, export_released, export_stage
from lavie.inference.exchange.import_weights import import_stage
from lavie.inference.load import load_stage
from lavie.models.released import read_released, unet_config, write_released
from lavie.models.trainable import is_temporal
from lavie.models.unet import VideoUNet
from lavie.models.weights import initialize, load_network, read_folder, to_official
from lavie.testing import GOLDEN_ATOL, SHARED
from tests.markers import requires_shared

FREQUENCIES = {"base": 6, "interpolation": 0, "vsr": 8}


@pytest.fixture
def released(tmp_path):
    """A function: stage -> a released file of the reference data's tiny network, and its config as a JSON file."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}")

    def write(stage, change=lambda state: state):
        tensors = load_file(SHARED / f"golden/{stage}.safetensors")
        cases = ("input.", "output", "long.", "odd.", "joint.")
        state = change({name: value for name, value in tensors.items() if not name.startswith(cases)})
        torch.save({"ema": state}, tmp_path / f"{stage}.pt")
        config = json.loads((SHARED / f"golden/{stage}.json").read_text())["config"]
        (tmp_path / f"{stage}.json").write_text(json.dumps(config))
        return tmp_path / f"{stage}.pt", tmp_path / f"{stage}.json"

    return write


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def equals_golden(stage, folder):
    """Whether the network of an exported folder computes what the released code does."""
    tensors = load_file(SHARED / f"golden/{stage}.safetensors")
    names = ("sample", "timestep", "encoder_hidden_states", "low_res", "class_labels")
    sample, timestep, text, low_res, level = (tensors.get(f"input.{name}") for name in names)
    if stage == "interpolation":
        sample, low_res = sample.split(4, 1)
    with torch.no_grad():
        actual = load_network(folder / "unet")(sample, timestep, text, low_res=low_res, noise_level=level)
    return float((actual - tensors["output"]).abs().max()) <= GOLDEN_ATOL


# --- released files


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_released_files_keep_every_bit_both_ways(released, tmp_path, stage):
    file, config = released(stage)
    original = read_released(file)
    import_stage(file, tmp_path / "one", stage, config=config)
    export_released(tmp_path / "one", tmp_path / "back.pt")
    back = read_released(tmp_path / "back.pt")
    assert same(back, original)
    assert sum(name.endswith("rotary_emb.freqs") for name in back) == FREQUENCIES[stage]
    import_stage(tmp_path / "back.pt", tmp_path / "two", stage, config=config)
    assert same(read_folder(tmp_path / "one/unet"), read_folder(tmp_path / "two/unet"))
    assert equals_golden(stage, tmp_path / "two")
    network = VideoUNet(load_network(tmp_path / "one/unet").config)
    initialize(network, tmp_path / "one")
    assert same(network.state_dict(), read_folder(tmp_path / "two/unet"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_precision_and_last_bits_of_constants_are_kept(released, tmp_path, stage):
    """Half precision, and frequencies that another library rounded otherwise; through an export of the import too."""

    def half(state):
        state = {name: value.half() for name, value in state.items()}
        for name in state:
            if name.endswith("freqs"):
                state[name][3] = torch.nextafter(state[name][3], torch.tensor(1.0).half())
        return state

    file, config = released(stage, half)
    import_stage(file, tmp_path / "one", stage, config=config)
    assert {value.dtype for value in read_folder(tmp_path / "one/unet").values()} == {torch.float16}
    assert (tmp_path / "one/unet" / CONSTANTS).is_file() == (stage != "interpolation")
    export_stage(tmp_path / "one", tmp_path / "two", encoders=False)
    export_released(tmp_path / "two", tmp_path / "back.pt")
    assert same(read_released(tmp_path / "back.pt"), read_released(file))


@pytest.mark.slow
def test_imports_sample_with_the_released_settings(released, pretrained, tmp_path):
    for stage in STAGES:
        file, config = released(stage)
        values = json.loads(config.read_text()) | {"cross_attention_dim": 32}
        config.write_text(json.dumps(values))
        if stage == "vsr":  # its text is 24 wide there: another network of random weights in the released layout
            write_released(file, to_official(stage, VideoUNet(unet_config(stage, values))))
        import_stage(
            file, tmp_path / "cascade" / stage, stage, config=config, pretrained=pretrained(4 if stage == "vsr" else 8)
        )
    few = [f"{stage}.num_inference_steps=2" for stage in STAGES]
    sizes = ["base.num_frames=2", "base.height=16", "base.width=24"]
    cascade = Cascade.from_pretrained(tmp_path / "cascade", overrides=few + sizes)
    between, last = cascade.settings.interpolation, cascade.settings.vsr
    assert (between.guidance_scale, between.negative_prompt, between.prompt_suffix) == (4.0, "None", ", 4k.")
    assert (last.guidance_scale, last.negative_prompt, last.noise_level) == (5.0, "blur, worst quality", 50)
    assert cascade.stages["vsr"].schedule.prediction_type == "v_prediction"
    [clips] = cascade(["a fox"])
    assert {stage: clip.shape for stage, clip in clips.items()} == {
        "base": (2, 16, 24, 3),
        "interpolation": (5, 16, 24, 3),
        "vsr": (5, 64, 96, 3),
    }
    assert (
        "| weights | those of a file in the layout of LaVie's released ones, bit for bit |"
        in (tmp_path / "cascade/base/README.md").read_text()
    )


def test_imports_can_be_completed_later(released, pretrained, tmp_path):
    file, config = released("base")
    import_stage(file, tmp_path / "bare", "base", config=config)
    with pytest.raises(
        CheckpointError, match=r"bare was made without vae/: `lavie import .*bare OUT --stage base --pret"
    ):
        load_stage(tmp_path / "bare")
    import_stage(tmp_path / "bare", tmp_path / "whole", "base", pretrained=pretrained())
    assert same(read_folder(tmp_path / "whole/unet"), read_folder(tmp_path / "bare/unet"))
    pipeline, _ = load_stage(tmp_path / "whole")
    clip = pipeline(["a fox"], num_frames=2, height=16, width=16, num_inference_steps=2)
    assert clip.shape == (1, 2, 16, 16, 3)
    assert clip.dtype == np.uint8
    with pytest.raises(CheckpointError, match="is an exported folder of stage base: give --stage base, no --config"):
        import_stage(tmp_path / "bare", tmp_path / "out", "vsr")


# --- what a run exports comes back


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_an_exported_network_comes_back_through_import(cascade_folder, exported, tmp_path, stage):
    """As a released file and as a folder, whatever says what the network is; the samples of the run come back too."""
    weights = read_folder(cascade_folder / stage / "checkpoint-3/unet")
    config = load_config(exported / stage / "config.yaml")
    export_released(cascade_folder / stage, tmp_path / "first.pt")
    checkpoint = cascade_folder / stage / "checkpoint-3"
    described = {
        "network": exported / stage / "unet/config.json",
        "export": exported / stage,
        "run": cascade_folder / stage,
        "config": checkpoint / "config.yaml",
    }
    for name, place in described.items():
        import_stage(tmp_path / "first.pt", tmp_path / name, stage, config=place)
    import_stage(exported / stage, tmp_path / "folder", stage)
    for name in (*described, "folder"):
        assert same(read_folder(tmp_path / name / "unet"), weights), name
        assert load_config(tmp_path / name / "config.yaml") == config, name
        export_released(tmp_path / name, tmp_path / f"{name}.pt")
        assert same(read_released(tmp_path / f"{name}.pt"), read_released(tmp_path / "first.pt")), name

    (ours, _), (theirs, _) = load_stage(cascade_folder / stage), load_stage(tmp_path / "export")
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 24, 3), np.uint8)
    given = [] if stage == "base" else [frames]
    few = dict(num_inference_steps=2) | (dict(num_frames=2, height=16, width=24) if stage == "base" else {})
    few |= dict(noise_level=5) if stage == "vsr" else {}
    assert np.array_equal(ours(*given, ["red"], **few), theirs(*given, ["red"], **few))


def test_a_file_of_another_size_needs_the_folder_of_its_run(cascade_folder, exported, tmp_path):
    export_released(cascade_folder / "base", tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match="another size than the released one needs the folder of its run there"):
        import_stage(tmp_path / "base.pt", tmp_path / "out", "base")
    with pytest.raises(CheckpointError, match=r"--config .* is of stage vsr: give --stage vsr"):
        import_stage(tmp_path / "base.pt", tmp_path / "out", "base", config=exported / "vsr")
    assert not (tmp_path / "out").exists()


def test_encoders_come_from_the_run_that_is_described(released, pretrained, tmp_path):
    file, config = released("base")
    import_stage(file, tmp_path / "whole", "base", config=config, pretrained=pretrained())
    import_stage(file, tmp_path / "again", "base", config=tmp_path / "whole")
    assert load_config(tmp_path / "again/config.yaml") == load_config(tmp_path / "whole/config.yaml")
    assert (tmp_path / "again/vae/config.json").is_file()
    assert (tmp_path / "again/tokenizer").is_dir()


# --- 2-D UNets


def flat_unet(folder, **changes):
    """A 2-D UNet as Stable Diffusion's, tiny, saved in `folder`/unet."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    values = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 1,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    }
    network = UNet2DConditionModel(**values | changes)
    network.save_pretrained(folder / "unet")
    return network


UPSCALER = {
    "in_channels": 7,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "only_cross_attention": (True, False),
    "num_class_embeds": 1000,
    "use_linear_projection": True,
}


@pytest.mark.parametrize("stage, changes", (("base", {}), ("interpolation", {}), ("vsr", UPSCALER)))
def test_flat_networks_are_inflated(tmp_path, stage, changes):
    flat = flat_unet(tmp_path / "sd", **changes).state_dict()
    import_stage(tmp_path / "sd", tmp_path / "out", stage)
    network = load_network(tmp_path / "out/unet")
    own = network.state_dict()
    if stage == "interpolation":
        condition = own["conv_in.weight"][:, 4:]
        assert condition.shape[1] == 4
        assert not condition.any()
        own["conv_in.weight"] = own["conv_in.weight"][:, :4]
    assert same({name: own[name] for name in flat}, flat)
    assert all(is_temporal(name) for name in own.keys() - flat.keys())
    assert network.config.norm_statistics == "separate"
    assert network.config.max_noise_level == (350 if stage == "vsr" else None)
    import_stage(tmp_path / "sd", tmp_path / "again", stage)
    assert same(read_folder(tmp_path / "again/unet"), read_folder(tmp_path / "out/unet"))


def test_encoders_come_from_the_same_folder(pretrained, tmp_path):
    shutil.copytree(pretrained(), tmp_path / "sd")
    flat_unet(tmp_path / "sd")
    import_stage(tmp_path / "sd", tmp_path / "out", "base")
    shutil.rmtree(tmp_path / "sd")
    pipeline, _ = load_stage(tmp_path / "out")
    assert pipeline(["a fox"], num_frames=2, height=16, width=16, num_inference_steps=2).any()


# --- refusals


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_do_not_execute(tmp_path):
    torch.save({"ema": Payload(tmp_path / "executed")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt: wanted a \.pt of plain tensors"):
        import_stage(tmp_path / "evil.pt", tmp_path / "out", "base")
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pt"]


def test_a_file_of_another_stage_or_size_is_refused(released, tmp_path):
    file, config = released("base")
    for stage, given in (("vsr", None), ("base", None), ("interpolation", config)):
        with pytest.raises(CheckpointError, match=r"does not fit the network.*check --stage and --config"):
            import_stage(file, tmp_path / "out", stage, config=given)
    config.write_text('{"in_channels": 4}')
    with pytest.raises(
        CheckpointError, match=r"base.json: key out_channels is missing: wanted a config in diffusers' style"
    ):
        import_stage(file, tmp_path / "out", "base", config=config)
    assert not (tmp_path / "out").exists()


def test_other_folders_are_refused(cascade_folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"is a run: `lavie export .*base OUT`"):
        import_stage(cascade_folder / "base", tmp_path / "out", "base")
    with pytest.raises(
        CheckpointError, match=r"wanted a released .pt file, a folder in diffusers' format or an exported"
    ):
        import_stage(tmp_path, tmp_path / "out", "base")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(CheckpointError, match="_class_name is 'AutoencoderKL', wanted UNet2DConditionModel"):
        import_stage(tmp_path, tmp_path / "out", "base")
    export_stage(cascade_folder / "base", tmp_path / "taken")
    with pytest.raises(ConfigError, match="taken exists: give another place, or --overwrite"):
        import_stage(tmp_path, tmp_path / "taken", "base")


@pytest.mark.slow
@requires_shared
def test_the_command(released, tmp_path, monkeypatch, capsys):
    file, config = released("vsr")
    for arguments, printed in (
        (("import", file, tmp_path / "out", "--stage", "vsr", "--config", config), "out"),
        (("export", tmp_path / "out", tmp_path / "back.pt", "--format", "released"), "back.pt"),
    ):
        monkeypatch.setattr(sys, "argv", ["lavie", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code in (None, 0)
        assert capsys.readouterr().out.strip() == str(tmp_path / printed)
    assert same(read_released(tmp_path / "back.pt"), read_released(file))
