"""Which checkpoints stay, and what a killed process leaves behind."""

import os

import pytest

from lavie.run_folder import checkpoint_candidates, checkpoints
from lavie.training.checkpoint import retention
from lavie.training.checkpoint.retention import adopt, prune, publish, sweep


def make(run, *names):
    """Make folders with a manifest that says their names."""
    for name in names:
        (run / name).mkdir()
        (run / name / "checkpoint.json").write_text(name)


def names(run):
    """Return what lies in a run's folder."""
    return sorted(path.name for path in run.iterdir())


@pytest.mark.parametrize(
    "step, limit, every, left",
    (
        (5, None, None, [1, 2, 3, 4, 5, 9]),
        (5, 2, None, [4, 5, 9]),
        (5, 1, 2, [2, 4, 5, 9]),
        (3, 1, None, [3, 4, 5, 9]),
        (5, 50, None, [1, 2, 3, 4, 5, 9]),
    ),
)
def test_the_newest_and_every_nth_stay(tmp_path, step, limit, every, left):
    make(tmp_path, *(f"checkpoint-{n}" for n in (1, 2, 3, 4, 5, 9)))
    prune(tmp_path, step, limit, every)
    assert [int(path.name.split("-")[1]) for path in checkpoints(tmp_path)] == left


def test_a_copy_of_a_number_with_zeros_is_no_checkpoint_and_a_link_is_not_deleted(tmp_path):
    for name in ("checkpoint-6", "checkpoint-0006", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.json").touch()
    (tmp_path / "checkpoint-2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "checkpoint-3").symlink_to(tmp_path / "a disk that is away")
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-6"]
    assert [folder.name for folder in checkpoint_candidates(tmp_path)] == [f"checkpoint-{step}" for step in (2, 3, 6)]
    prune(tmp_path, 6, 1, None)
    assert {path.name for path in tmp_path.iterdir()} >= {f"checkpoint-{step}" for step in (2, 3, 6)}


def test_a_users_folders_stay(tmp_path):
    theirs = (".checkpoint-notes", "checkpoint-best", "checkpoint-3.bak", ".checkpoint-4.mine", "checkpoint-")
    make(tmp_path, *theirs, ".checkpoint-2.old", ".checkpoint-7.partial", "checkpoint-1", "checkpoint-2")
    sweep(tmp_path, lambda folder: "torn")
    prune(tmp_path, 2, 1, None)
    assert names(tmp_path) == sorted([*theirs, "checkpoint-2"])


def test_a_step_that_is_saved_again_is_never_without_a_folder(tmp_path, monkeypatch):
    """At every rename of publishing, a complete folder is there under one of the names that adopt knows."""
    for kill_at in range(3):
        run = tmp_path / str(kill_at)
        run.mkdir()
        make(run, "checkpoint-4", ".checkpoint-4.partial")
        (run / "checkpoint-4" / "checkpoint.json").write_text("old")
        calls = []

        def rename(self, target, calls=calls, kill_at=kill_at):
            if len(calls) == kill_at:
                raise KeyboardInterrupt
            calls.append(target)
            os.rename(self, target)
            return target

        monkeypatch.setattr("pathlib.Path.rename", rename)
        try:
            publish(run / ".checkpoint-4.partial", run / "checkpoint-4")
        except KeyboardInterrupt:
            assert kill_at < 2
        monkeypatch.undo()
        adopt(run, lambda folder: None)
        sweep(run, lambda folder: "torn")
        assert names(run) == ["checkpoint-4"]
        text = (run / "checkpoint-4" / "checkpoint.json").read_text()
        assert text == ("old" if kill_at == 0 else ".checkpoint-4.partial")


@pytest.mark.parametrize("later_ones_too", (False, True))
def test_a_rename_that_fails_costs_no_checkpoint(tmp_path, monkeypatch, later_ones_too):
    """The older one of the step has its name back at once, or when the disk lets the next save begin."""
    make(tmp_path, "checkpoint-4", ".checkpoint-4.partial")
    calls = []

    def rename(self, target):
        calls.append(target)
        if len(calls) == 2 or (later_ones_too and len(calls) > 2):
            raise OSError("the disk fails")
        os.rename(self, target)
        return target

    monkeypatch.setattr("pathlib.Path.rename", rename)
    with pytest.raises(OSError, match=r"the disk fails"):
        publish(tmp_path / ".checkpoint-4.partial", tmp_path / "checkpoint-4")
    assert ("checkpoint-4" in names(tmp_path)) != later_ones_too
    monkeypatch.undo()
    sweep(tmp_path, lambda folder: "torn" if folder.suffix == ".partial" else None)
    assert names(tmp_path) == ["checkpoint-4"]
    assert (tmp_path / "checkpoint-4" / "checkpoint.json").read_text() == "checkpoint-4"


def test_a_whole_hidden_folder_takes_the_place_of_a_damaged_one(tmp_path):
    make(tmp_path, "checkpoint-4", ".checkpoint-4.old")
    adopt(tmp_path, lambda folder: None if folder.suffix == ".old" else "torn")
    assert (tmp_path / "checkpoint-4" / "checkpoint.json").read_text() == ".checkpoint-4.old"
    assert names(tmp_path) == [".checkpoint-4.damaged", "checkpoint-4"]


def test_damaged_hidden_folders_are_not_adopted(tmp_path, caplog):
    make(tmp_path, ".checkpoint-4.partial", ".checkpoint-4.old", ".checkpoint-6.partial")
    found = adopt(tmp_path, lambda folder: None if folder.suffix == ".old" else "torn")
    assert found == [tmp_path / "checkpoint-4"]
    assert names(tmp_path) == [".checkpoint-4.partial", ".checkpoint-6.partial", "checkpoint-4"]
    assert "is a complete checkpoint that lay hidden" in caplog.text


def test_a_folder_that_cannot_be_deleted_is_told(tmp_path, monkeypatch, caplog):
    make(tmp_path, "checkpoint-1", "checkpoint-2")

    def refuse(path):
        raise OSError("busy")

    monkeypatch.setattr(retention.shutil, "rmtree", refuse)
    prune(tmp_path, 2, 1, None)
    assert "could not be deleted and takes room: busy" in caplog.text
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]
