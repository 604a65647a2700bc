"""What stays on disk: how many checkpoints, and nothing half written under a finished name."""

import pytest

from lavie.errors import CheckpointError
from lavie.models.weights import checkpoints, load_network, newest_checkpoint
from lavie.testing import run_distributed

from .test_trainer import deepspeed_json, make_config, train


def test_keeps_the_newest_and_leaves_no_partial_folder(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    config = make_config(
        rendered, tmp_path / "run", max_train_steps=5, checkpointing_steps=1, checkpoints_total_limit=2
    )
    for left in (
        ".checkpoint-3.old",
        ".checkpoint-7.partial",
    ):  # a run was killed there; they are as large as the others
        (tmp_path / "run" / left / "state").mkdir(parents=True)
    run_distributed(train, 2, config, settings)
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["checkpoint-4", "checkpoint-5"]
    assert not [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoint-5" / "unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert load_network(tmp_path / "run" / "checkpoint-5" / "unet").config == config.model


def test_newest_is_by_step_and_skips_what_is_not_finished(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint-<step>"):
        newest_checkpoint(tmp_path)
    for step, finished in ((9, True), (10, True), (11, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if finished:
            (folder / "checkpoint.json").write_text("{}")
    assert newest_checkpoint(tmp_path).name == "checkpoint-10"
    assert newest_checkpoint(tmp_path / "checkpoint-9").name == "checkpoint-9"
