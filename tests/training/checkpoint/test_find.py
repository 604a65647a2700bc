"""Which checkpoint a run goes on from, where some are damaged."""

import json

import pytest

from lavie.config.load import dump_yaml
from lavie.errors import CheckpointError
from lavie.manifest import write_manifest
from lavie.tensor_file import write_text
from lavie.training.checkpoint.find import find
from tests.training.runs import make_config

ABOUT = {"world_size": 1, "zero_stage": 3, "dtype": "float32", "optimizer": "adamw", "global_batch": 2}


@pytest.fixture
def run(rendered, tmp_path):
    """Return the config of a run with whole checkpoints of the steps 2, 4 and 6."""
    config = make_config(rendered, tmp_path / "run", max_train_steps=8)
    for step in (2, 4, 6):
        make(config, tmp_path / "run" / f"checkpoint-{step}", step)
    return config.model_copy(update={"resume_from_checkpoint": "latest"})


def make(config, folder, step):
    """Make a checkpoint without a state."""
    folder.mkdir(parents=True)
    files = {"config.yaml": write_text(folder / "config.yaml", dump_yaml(config))}
    files["weights"] = write_text(folder / "weights", "1" * 1000)
    write_manifest(folder, ABOUT | {"step": step}, files)


def flip(path):
    """Flip the lowest bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_newest_is_taken(run):
    assert find(run, 3).step == 6
    assert find(run.model_copy(update={"resume_from_checkpoint": f"{run.output_dir}/checkpoint-2"}), 3).step == 2
    assert find(run.model_copy(update={"resume_from_checkpoint": None}), 3) is None


@pytest.mark.parametrize("asked", ("latest", "auto"))
@pytest.mark.parametrize("harm", ("flip", "cut", "delete", "manifest", "no manifest", "older file"))
def test_a_damaged_one_is_named_and_the_older_one_taken(run, tmp_path, caplog, asked, harm):
    folder = tmp_path / "run" / "checkpoint-6"
    match harm:
        case "flip":
            flip(folder / "weights")
        case "cut":
            (folder / "weights").write_text("1" * 999)
        case "delete":
            (folder / "weights").unlink()
        case "manifest":
            flip(folder / "checkpoint.json")
        case "no manifest":
            (folder / "checkpoint.json").unlink()
        case "older file":
            (folder / "weights").write_text("2" * 1000)
    assert find(run.model_copy(update={"resume_from_checkpoint": asked}), 3).step == 4
    [line] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert str(folder) in line
    assert line.endswith("the run goes on from checkpoint-4")


def test_sizes_alone_miss_a_flipped_bit(run, tmp_path):
    flip(tmp_path / "run" / "checkpoint-6" / "weights")
    assert find(run.model_copy(update={"verify_checkpoint": "sizes"}), 3).step == 6
    (tmp_path / "run" / "checkpoint-6" / "weights").write_text("")
    assert find(run.model_copy(update={"verify_checkpoint": "sizes"}), 3).step == 4


@pytest.mark.parametrize("asked", ("latest", "auto"))
def test_no_run_starts_anew_beside_damaged_checkpoints(run, tmp_path, asked):
    for step in (2, 4, 6):
        (tmp_path / "run" / f"checkpoint-{step}" / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: .*checkpoint-6: .* is missing; .*checkpoint-2"):
        find(run.model_copy(update={"resume_from_checkpoint": asked}), 3)


def test_a_link_that_leads_nowhere_is_a_damaged_checkpoint(run, tmp_path):
    config, away = make_config(tmp_path, tmp_path / "linked", resume_from_checkpoint="auto"), tmp_path / "away"
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "checkpoint-4").symlink_to(away)
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: .*checkpoint-4: checkpoint.json is missing"):
        find(config, 0)


def test_a_run_may_be_called_as_checkpoints_are(tmp_path):
    config = make_config(tmp_path, tmp_path / "checkpoint-1", resume_from_checkpoint="auto")
    (tmp_path / "checkpoint-1").mkdir()
    assert find(config, 0) is None


def test_one_that_is_named_is_not_replaced_by_another(run, tmp_path):
    folder = tmp_path / "run" / "checkpoint-4"
    flip(folder / "weights")
    with pytest.raises(CheckpointError, match=r"weights: its bytes have changed since it was written"):
        find(run.model_copy(update={"resume_from_checkpoint": str(folder)}), 3)


def test_nothing_to_resume(run, tmp_path, caplog):
    empty = run.model_copy(update={"output_dir": str(tmp_path / "empty")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint-<step> folder"):
        find(empty, 3)
    assert find(empty.model_copy(update={"resume_from_checkpoint": "auto"}), 3) is None
    with pytest.raises(CheckpointError, match=r"nowhere: no checkpoint-<step> folder"):
        find(run.model_copy(update={"resume_from_checkpoint": "nowhere"}), 3)


def test_a_complete_hidden_folder_is_found(run, tmp_path):
    folder = tmp_path / "run"
    for step in (2, 4, 6):
        (folder / f"checkpoint-{step}").rename(folder / f".checkpoint-{step}.{'old' if step < 6 else 'partial'}")
    assert find(run.model_copy(update={"resume_from_checkpoint": "auto"}), 3).step == 6
    assert (folder / "checkpoint-6").is_dir()


def test_the_layout_of_before_is_to_be_converted(run, tmp_path):
    folder = tmp_path / "run" / "checkpoint-6"
    (folder / "checkpoint.json").write_text(json.dumps({"step": 6, "world_size": 1}))
    for asked in (str(folder), "latest", "auto"):  # older ones beside it would lose its steps
        with pytest.raises(CheckpointError, match=r"lavie checkpoint convert .*checkpoint-6"):
            find(run.model_copy(update={"resume_from_checkpoint": asked}), 3)
