"""What the page draws with: folders that can be drawn from, as other commands would, and one line for all others."""

import shutil

import numpy as np
import pytest
import torch

from lavie.errors import CheckpointError, ConfigError
from lavie.inference.cascade import Cascade
from lavie.pages.play.sources import find_loras, find_sources
from tests.cascades import seal


def test_a_cascade_is_planned_without_weights_and_draws_as_other_commands_do(cascade_folder):
    [source] = find_sources([f"mine={cascade_folder}"]).values()
    told = source.told()
    assert source.planned.device == torch.device("meta") and told["name"] == "mine"
    sizes = {name: stage["size"] for name, stage in told["stages"].items()}
    assert sizes == {"base": [3, 16, 24], "interpolation": [9, 16, 24], "vsr": [9, 64, 96]}
    assert told["stages"]["base"]["num_inference_steps"] == 3 and told["takes_frames"] is False
    [mine] = source.load()(["a fox"])
    [theirs] = Cascade.from_pretrained(cascade_folder, device="cpu")(["a fox"])
    assert all(np.array_equal(mine[name], theirs[name]) for name in sizes)


def test_a_cascade_may_end_early_and_a_base_run_is_one(cascade_folder, tmp_path):
    (tmp_path / "two").mkdir()
    for stage in ("base", "interpolation"):
        (tmp_path / "two" / stage).symlink_to(cascade_folder / stage)
    found = find_sources([str(tmp_path / "two"), f"run={cascade_folder / 'base'}"])
    assert [list(source.planned.stages) for source in found.values()] == [["base", "interpolation"], ["base"]]
    [alone] = found["run"].load()(["a fox"], stop_after="base")
    [first] = found["two"].load()(["a fox"], stop_after="base")
    assert np.array_equal(alone["base"], first["base"])


@pytest.mark.parametrize(
    "words, error, told",
    (
        (["nowhere"], CheckpointError, "nowhere: no such folder"),
        (["empty"], CheckpointError, r"empty: no checkpoint-<step> folder"),
        (["file"], CheckpointError, "file: no such folder"),
        (["cascade/vsr"], ConfigError, "stage vsr, which draws nothing from a prompt alone"),
        (["a=cascade", "a=cascade"], ConfigError, "wanted a name that no other one has"),
        (["=cascade"], ConfigError, "NAME=FOLDER"),
        (["damaged"], CheckpointError, "unet"),
    ),
)
def test_what_cannot_be_drawn_from_is_one_line(cascade_folder, tmp_path, monkeypatch, words, error, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "cascade").symlink_to(cascade_folder)
    shutil.copytree(cascade_folder / "base", "damaged")
    for weights in (tmp_path / "damaged/checkpoint-3/unet").iterdir():
        weights.unlink()
    seal(tmp_path / "damaged/checkpoint-3")
    with pytest.raises(error, match=told) as raised:
        find_sources(words)
    assert len(str(raised.value).splitlines()) == 1


def test_loras_have_names_and_scales(tmp_path):
    for name in ("style.safetensors", "face.safetensors"):
        (tmp_path / name).touch()
    found = find_loras([f"{tmp_path}/style.safetensors:0.5", f"{tmp_path}/face.safetensors"])
    assert {name: lora.scale for name, lora in found.items()} == {"style": 0.5, "face": 1}
    with pytest.raises(ConfigError, match="no such file"):
        find_loras([f"{tmp_path}/other.safetensors"])
    with pytest.raises(ConfigError, match="another LoRA has this name"):
        find_loras([f"{tmp_path}/style.safetensors"] * 2)
