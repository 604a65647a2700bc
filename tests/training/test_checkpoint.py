"""What stays on disk: how many checkpoints, and nothing half written under a finished name."""

import errno
import json
import os
import shutil
import stat
from types import SimpleNamespace

import pytest

from lavie.config.load import dump_yaml
from lavie.errors import CheckpointError, TrainingError
from lavie.inference.exchange.export import export_stage
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
    export_stage(tmp_path / "run", tmp_path / "exported")
    # Whoever may read one file of a run or an export may read all: what the umask allows, nothing else decides.
    umask = os.umask(0o022)
    os.umask(umask)
    for folder in (tmp_path / "run", tmp_path / "exported"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert any(path.suffix == ".safetensors" for path in files)
        for path in files:
            assert stat.S_IMODE(path.stat().st_mode) & 0o666 == 0o666 & ~umask, path


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


@pytest.fixture
def resumed(rendered, tmp_path):
    """Return the config of a run with a checkpoint of step 4, whose state is not there, and how to find it."""
    config = make_config(rendered, tmp_path / "run", max_train_steps=8, lr_scheduler="cosine", learning_rate=1e-4)
    folder = tmp_path / "run" / "checkpoint-4"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "checkpoint.json").write_text(json.dumps({"step": 4, "world_size": 1}))
    return config.model_copy(update={"resume_from_checkpoint": "latest"})


@pytest.mark.parametrize(
    "key, value, was",
    (("stage", "interpolation", "base"), ("trainable", "temporal", "all"), ("use_ema", False, "True")),
)
def test_what_a_resumed_run_must_keep_is_refused_by_name(resumed, key, value, was):
    with pytest.raises(CheckpointError, match=rf"checkpoint-4: {key} was {was}, .* says {value}: set {key} to {was}"):
        checkpoint.find(resumed.model_copy(update={key: value}), 3)


@pytest.mark.parametrize(
    "changes, words",
    (
        ({}, None),
        # After 3 steps of warm-up, steps 4 and 5 of 8 (and of 13) are the first and second of a half cosine of 5 (10).
        ({"max_train_steps": 13}, "at step 5 is 9.76e-05, at step 4 it was 0.0001: max_train_steps was 8, now 13"),
        (
            {"learning_rate": 3e-4},
            "at step 5 is 0.000271, at step 4 it was 0.0001: learning_rate was 0.0001, now 0.0003",
        ),
        (
            {"lr_scheduler": "constant", "lr_warmup_steps": 50},
            "at step 5 is 1e-05, at step 4 it was 0.0001: lr_scheduler was cosine, now constant, "
            "lr_warmup_steps was 3, now 50",
        ),
    ),
)
def test_a_learning_rate_that_jumps_is_told(resumed, caplog, changes, words):
    assert checkpoint.find(resumed.model_copy(update=changes), 3)[1] == 4
    told = [r.getMessage() for r in caplog.records if "learning_rate at step" in r.getMessage()]
    assert told == ([f"{resumed.output_dir}/checkpoint-4: learning_rate {words}"] if words else [])


def test_a_longer_run_of_a_constant_rate_jumps_nowhere(resumed, caplog):
    folder = checkpoints(resumed.output_dir)[-1]
    constant = resumed.model_copy(update={"lr_scheduler": "constant"})
    (folder / "config.yaml").write_text(dump_yaml(constant))
    checkpoint.find(constant.model_copy(update={"max_train_steps": 100}), 3)
    assert "learning_rate" not in caplog.text
