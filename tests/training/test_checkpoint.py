"""What stays on disk: how many checkpoints, and nothing half written under a finished name."""

import errno
import shutil
from types import SimpleNamespace

import pytest

from lavie.errors import CheckpointError, TrainingError
from lavie.models.weights import load_network
from lavie.run_folder import checkpoints, newest_checkpoint
from lavie.testing import run_distributed
from lavie.training import checkpoint
from lavie.training.trainer import require_sources
from tests.training.runs import deepspeed_json, fails, make_config, train


@pytest.mark.slow
def test_keeps_the_newest_and_leaves_no_partial_folder(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    config = make_config(
        rendered, tmp_path / "run", max_train_steps=5, checkpointing_steps=1, checkpoints_total_limit=2
    )
    for left in (".checkpoint-3.old", ".checkpoint-7.partial"):  # by a run that was killed; as large as the others
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


@pytest.mark.slow
def test_a_new_run_leaves_another_runs_folder_alone(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    common = {"checkpointing_steps": 1, "checkpoints_total_limit": 2}
    config = make_config(rendered, tmp_path / "run", max_train_steps=3, **common)
    run_distributed(train, 1, config, settings)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    [message] = run_distributed(fails, 1, config, settings)
    assert "checkpoint-3" in message
    assert "resume_from_checkpoint=latest" in message
    assert "output_dir" in message
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == metrics
    # From an earlier step: what is written is kept, though later steps lie there.
    again = config.model_copy(
        update={"resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-2"), "checkpoints_total_limit": 1}
    )
    shutil.copytree(tmp_path / "run" / "checkpoint-3", tmp_path / "run" / "checkpoint-9")
    run_distributed(train, 1, again, settings)
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["checkpoint-3", "checkpoint-9"]


@pytest.mark.parametrize("key", ("pretrained_model_name_or_path", "init_weights"))
def test_weights_that_are_not_there_are_told_at_the_start(tmp_path, key):
    with pytest.raises(CheckpointError, match=f"{key} is nowhere: no such file"):
        require_sources(make_config(tmp_path, tmp_path, **{key: "nowhere"}))


@pytest.mark.parametrize(
    "free, error",
    ((0, RuntimeError("unexpected pos 64")), (2**40, OSError(errno.ENOSPC, "No space left on device"))),
)
def test_a_full_disk_is_named(tmp_path, monkeypatch, free, error):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with (
        pytest.raises(TrainingError, match="no room for another checkpoint"),
        checkpoint._require_room(tmp_path / "partial"),
    ):
        raise error
    with pytest.raises(ValueError, match="another"), checkpoint._require_room(tmp_path / "partial"):
        raise ValueError("another")
