"""Runs become folders that are whole: the same bits and samples anywhere, nothing overwritten."""

import json
import re
import shutil
import sys

import diffusers
import numpy as np
import pytest
import torch
import transformers
import yaml

from lavie.cli import main as cli
from lavie.config.load import load_config
from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import CheckpointError, ConfigError
from lavie.inference.cascade import Cascade
from lavie.inference.exchange.export import export_released, export_stage
from lavie.inference.load import load_stage
from lavie.inference.preview import PREVIEW, Preview
from lavie.inference.schedulers import SCHEDULERS, make_scheduler, set_timesteps, take_step
from lavie.models.released import read_released
from lavie.models.unet import VideoUNet
from lavie.models.weights import WEIGHTS_NAME, initialize, load_network, read_folder, save_network
from lavie.run_folder import EXPORT, MANIFEST, newest_checkpoint
from lavie.testing import tiny_unet
from tests.cascades import seal
from tests.inference.exchange.exports import STAGES


@pytest.fixture
def change(cascade_folder, tmp_path):
    """A function: stage and changes of its config -> a copy of the stage's checkpoint with them."""

    def copy(stage, **changes):
        folder = tmp_path / f"changed-{stage}"
        shutil.copytree(cascade_folder / stage / "checkpoint-3", folder)
        values = yaml.safe_load((folder / "config.yaml").read_text()) | changes
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        seal(folder)
        return folder

    return copy


@pytest.fixture
def with_encoders(tmp_path, pretrained):
    """A run of a tiny network between diffusers' autoencoder and CLIP's text encoder, in a place of their own."""
    shutil.copytree(pretrained(), tmp_path / "elsewhere")
    model = tiny_unet(cross_attention_dim=32)
    values = {
        "stage": "base",
        "output_dir": "unused",
        "model": model.model_dump(mode="json"),
        "data": {"train": ["/data/train"], "num_frames": 2, "num_images": 0, "height": 16, "width": 16, "fps": 8},
        "sampling": {"num_inference_steps": 2, "guidance_scale": 1.0},
        "pretrained_model_name_or_path": str(tmp_path / "elsewhere"),
        "max_train_steps": 1,
    }
    folder = tmp_path / "run" / "checkpoint-1"
    torch.manual_seed(0)
    save_network(folder / "unet", model, VideoUNet(model).state_dict())
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (folder / MANIFEST).write_text(json.dumps({"step": 1}))
    return tmp_path / "run"


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what lies in the folder


@pytest.mark.parametrize("stage", STAGES)
def test_weights_keep_every_bit_and_start_runs(cascade_folder, exported, stage):
    folder, checkpoint = exported / stage, cascade_folder / stage / "checkpoint-3"
    code = ["lavie_pipeline.py", "model_index.json"]
    assert names(folder) == ["README.md", "config.yaml", EXPORT, *code, PREVIEW, "scheduler", "unet"]
    weights = read_folder(checkpoint / "unet")
    assert same(read_folder(folder / "unet"), weights)
    network = VideoUNet(load_config(folder / "config.yaml").model)
    initialize(network, folder)
    assert same(network.state_dict(), weights)
    about = json.loads((folder / EXPORT).read_text())
    assert (about["stage"], about["step"], about["weights"]) == (stage, 3, "ema")
    assert about["parameters"] == sum(w.numel() for w in weights.values())
    assert (about["source"], about["started_from"], about["data"]) == ("unused", None, [])
    # The colours of latents come with it, and sampling takes them from there.
    kept = Preview.load(folder / PREVIEW, load_config(folder / "config.yaml").latent_channels)
    assert kept.r2 >= 0.8 and torch.equal(load_stage(folder)[0].preview().matrix, kept.matrix)


@pytest.mark.slow
def test_exports_are_a_cascade_with_runs_beside_them(cascade_folder, exported):
    [expected] = Cascade.from_pretrained(cascade_folder)(["red"])
    shutil.rmtree(exported / "interpolation")
    shutil.copytree(cascade_folder / "interpolation", exported / "interpolation")
    mixed = Cascade.from_pretrained(exported)
    assert mixed.settings == Cascade.from_pretrained(cascade_folder, device="meta").settings
    [clips] = mixed(["red"])
    assert all(np.array_equal(clips[stage], expected[stage]) for stage in STAGES)


def test_released_settings_stay_released(without_sampling, tmp_path):
    model = load_config(without_sampling / "vsr/config.yaml").model
    (without_sampling / "vsr/unet").unlink()
    save_network(without_sampling / "vsr/unet", model, VideoUNet(model).state_dict())
    for stage in STAGES:
        export_stage(without_sampling / stage, tmp_path / "out" / stage)
    settings = [
        Cascade.from_pretrained(place, device="meta").settings for place in (without_sampling, tmp_path / "out")
    ]
    assert settings[0] == settings[1]
    assert settings[1].interpolation.negative_prompt == "None"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_diffusers_reads_the_scheduler_that_samples(change, tmp_path, name):
    folder = change("vsr", sampling={"scheduler": name, "noise_level": 5}, rescale_betas_zero_snr=True)
    export_stage(folder, tmp_path / "out")
    ours = make_scheduler(name, NoiseSchedule("v_prediction", True))
    theirs = type(ours).from_pretrained(tmp_path / "out", subfolder="scheduler")
    settings = [{k: v for k, v in s.config.items() if not k.startswith("_")} for s in (ours, theirs)]
    assert settings[0] == settings[1]
    assert torch.equal(theirs.betas, ours.betas)
    assert getattr(diffusers, json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())["_class_name"])
    for scheduler in (ours, theirs):
        set_timesteps(scheduler, 7)
    x, output = torch.randn(2, 2, 4, 2, 3, 3)
    moved = [
        take_step(s, output, s.timesteps[0], x, [torch.Generator().manual_seed(i) for i in range(len(x))])
        for s in (ours, theirs)
    ]
    assert torch.equal(*moved)


def test_no_path_leads_out_of_the_folder(change, tmp_path):
    places = {"output_dir": "/a/runs", "init_weights": "/a/base", "pretrained_model_name_or_path": "/a/sd"}
    data = {
        "train": ["/a/train"],
        "validation": ["/a/v"],
        "cache": "/a/cache",
        "cuts": 1,
        "num_frames": 3,
        "num_images": 0,
        "height": 16,
        "width": 24,
        "fps": 8,
    }
    export_stage(change("base", data=data, **places), tmp_path / "out")
    for name in ("config.yaml", "README.md", EXPORT):
        text = (tmp_path / "out" / name).read_text()
        assert not re.search(r"(^|[\s'\"])/", text, re.MULTILINE), name
        assert str(tmp_path) not in text, name
    (tmp_path / "out").rename(tmp_path / "moved")
    pipeline, config = load_stage(tmp_path / "moved")
    assert (config.data.train, config.data.validation, config.data.cache) == ((), (), None)
    assert config.data.num_frames == 3
    assert pipeline(["a"], num_frames=1, height=16, width=16).any()


def test_exports_resume_nothing(exported):
    with pytest.raises(CheckpointError, match="is an exported folder: a run starts from it by init_weights"):
        newest_checkpoint(exported / "base")


# --- autoencoder and text encoder


@pytest.mark.slow
def test_encoders_come_along(with_encoders, tmp_path):
    expected, _ = load_stage(with_encoders)
    export_stage(with_encoders, tmp_path / "out")
    shutil.rmtree(tmp_path / "elsewhere")
    assert names(tmp_path / "out/vae") == ["config.json", WEIGHTS_NAME]
    assert "pytorch_model.bin" not in names(tmp_path / "out/text_encoder")
    pipeline, _ = load_stage(tmp_path / "out")
    settings = {"num_frames": 2, "height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 1.0}
    assert np.array_equal(pipeline(["a fox"], **settings), expected(["a fox"], **settings))
    opened = diffusers.AutoencoderKL.from_pretrained(tmp_path / "out", subfolder="vae").state_dict()
    assert same(opened, dict(pipeline.autoencoder.vae.state_dict()))
    assert transformers.CLIPTextModel.from_pretrained(tmp_path / "out/text_encoder").config.hidden_size == 32
    with pytest.raises(ValueError, match="Pass `trust_remote_code=True`"):
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    about = json.loads((tmp_path / "out" / EXPORT).read_text())
    assert (about["source"], about["started_from"], about["data"]) == ("unused", "elsewhere", ["train"])
    export_stage(tmp_path / "out", tmp_path / "again")
    assert names(tmp_path / "again") == names(tmp_path / "out")
    assert load_stage(tmp_path / "again", device=torch.device("meta"))[1] == load_config(tmp_path / "out/config.yaml")


def test_encoders_may_stay_away(with_encoders, tmp_path):
    export_stage(with_encoders, tmp_path / "out", encoders=False)
    assert names(tmp_path / "out") == ["README.md", "config.yaml", EXPORT, "scheduler", "unet"]
    load_stage(tmp_path / "out")
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"pretrained_model_name_or_path .*elsewhere: no autoencoder in vae/"):
        load_stage(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"elsewhere/vae: wanted vae in diffusers' format.*--no-encoders"):
        export_stage(tmp_path / "out", tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_encoders_of_another_stage_are_refused(with_encoders, pretrained, tmp_path):
    with pytest.raises(
        CheckpointError, match="vae maps 4 pixels to a latent of 4 channels, wanted 8 and 4: give --pre"
    ):
        export_stage(with_encoders, tmp_path / "out", pretrained=pretrained(4))
    config = tmp_path / "elsewhere/text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 48}))
    with pytest.raises(CheckpointError, match="text_encoder gives 48 features, the network reads 32"):
        export_stage(with_encoders, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


# --- released files


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_released_file_holds_the_same_network(cascade_folder, exported, tmp_path, stage):
    network = load_network(cascade_folder / stage / "checkpoint-3/unet")
    for source in (cascade_folder, exported):
        export_released(source / stage, tmp_path / f"{source.name}.pt")
        loaded = VideoUNet(network.config)
        report = initialize(loaded, tmp_path / f"{source.name}.pt")
        assert same(loaded.state_dict(), network.state_dict())
        assert len(report.unused) == {"base": 4, "interpolation": 0, "vsr": 5}[stage]
    assert list(torch.load(tmp_path / "exported.pt", weights_only=True)) == ["ema"]
    theirs = read_released(tmp_path / "exported.pt")
    assert any("attn_temporal." in name for name in theirs) == (stage == "vsr")


def test_released_code_cannot_build_everything(tmp_path, change):
    folder, config = change("base"), tiny_unet(in_channels=12, out_channels=12, rotary_dim=16)
    save_network(folder / "unet", config, VideoUNet(config).state_dict())
    seal(folder)
    with pytest.raises(CheckpointError, match=r"model.rotary_dim is 16, the released base network has 32"):
        export_released(folder, tmp_path / "base.pt")
    assert not (tmp_path / "base.pt").exists()


# --- what lies at OUT


def test_nothing_is_overwritten_unasked(cascade_folder, tmp_path):
    base, out = cascade_folder / "base", tmp_path / "out"
    out.mkdir()  # empty: as good as new
    export_stage(base, out)
    (out / "unet" / WEIGHTS_NAME).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"out exists: give another place, or --overwrite$"):
        export_stage(base, out)
    assert (out / "unet" / WEIGHTS_NAME).stat().st_size == 0
    export_stage(base, out, overwrite=True)
    assert (out / "unet" / WEIGHTS_NAME).stat().st_size > 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    for place in ("mine", "mine/notes.txt"):
        with pytest.raises(ConfigError, match=r"exists.*: give another place$"):
            export_stage(base, tmp_path / place, overwrite=True)
    assert names(tmp_path) == ["mine", "out"]
    assert names(tmp_path / "mine") == ["notes.txt"]


def test_released_files_are_not_overwritten_unasked(cascade_folder, tmp_path):
    (tmp_path / "old.pt").write_text("old")
    with pytest.raises(ConfigError, match=r"old.pt exists: give another place, or --overwrite$"):
        export_released(cascade_folder / "base", tmp_path / "old.pt")
    assert (tmp_path / "old.pt").read_text() == "old"
    export_released(cascade_folder / "base", tmp_path / "old.pt", overwrite=True)
    assert read_released(tmp_path / "old.pt")
    with pytest.raises(ConfigError, match=r"is a folder: give a file name, as lavie_base.pt$"):
        export_released(cascade_folder / "base", tmp_path, overwrite=True)


def test_a_failing_export_leaves_what_was_there(cascade_folder, change, tmp_path):
    export_stage(cascade_folder / "base", tmp_path / "out")
    folder = change("base")
    weights = read_folder(folder / "unet")
    del weights["conv_out.bias"]
    save_network(folder / "unet", load_config(folder / "config.yaml").model, weights)
    seal(folder)
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match=r"1 missing: conv_out.bias"):
        export_stage(folder, tmp_path / "out", overwrite=True)
    assert names(tmp_path) == before
    assert load_stage(tmp_path / "out")


# --- the command


@pytest.fixture
def run(monkeypatch, capsys):
    """A function: arguments -> what `lavie` printed, or its message."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lavie", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return capsys.readouterr().out.strip() if stop.value.code in (None, 0) else stop.value.code

    return call


def test_the_command_exports_and_samples(cascade_folder, tmp_path, run):
    out = tmp_path / "out"
    assert run("export", cascade_folder / "base", out) == str(out)
    assert "exists: give another place, or --overwrite" in run("export", cascade_folder / "base", out)
    assert run("export", cascade_folder / "base", out, "--overwrite") == str(out)
    assert run("export", out, tmp_path / "base.pt", "--format", "released") == str(tmp_path / "base.pt")
    assert "samples/00000.mp4" in run("sample", "--checkpoint", out, "--prompt", "red", "--out", tmp_path / "samples")


def test_the_command_refuses(exported, tmp_path, run):
    assert "--raw: RUN" in run("export", exported / "base", tmp_path / "out", "--raw")
    assert "no checkpoint-<step> folder" in run("export", tmp_path / "nowhere", tmp_path / "out")
    assert names(tmp_path) == ["exported"]
