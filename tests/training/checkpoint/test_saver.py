"""Saving: what lies on the disk, what becomes of a save that fails, and how large it is."""

import errno
import logging
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from lavie.inference.exchange.export import export_stage
from lavie.manifest import damage, read_manifest
from lavie.models.weights import load_network
from lavie.run_folder import checkpoints
from lavie.testing import run_distributed
from lavie.training.checkpoint import saver
from tests.training.runs import deepspeed_json, fails, losses, make_config, train

TINY = {"train_batch_size": 1, "data": {"num_frames": 2, "num_images": 0, "height": 16, "width": 16}}


@pytest.mark.slow
def test_keeps_the_newest_and_leaves_no_partial_folder(rendered, tmp_path):
    config = make_config(
        rendered,
        tmp_path / "run",
        max_train_steps=5,
        checkpointing_steps=1,
        checkpoints_total_limit=2,
        checkpoints_keep_every=2,
    )
    for left in (".checkpoint-3.old", ".checkpoint-7.partial"):  # by a run that was killed; as large as the others
        (tmp_path / "run" / left / "state").mkdir(parents=True)
    run_distributed(train, 2, config, deepspeed_json(tmp_path, 3))
    kept = checkpoints(tmp_path / "run")
    assert [p.name for p in kept] == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    assert not [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]
    newest = kept[-1]
    manifest = read_manifest(newest)
    on_disk = {str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file()}
    assert on_disk == {*manifest["files"], "checkpoint.json"}
    assert damage(newest, manifest) is None
    assert load_network(newest / "unet").config == config.model
    export_stage(tmp_path / "run", tmp_path / "exported")
    # Whoever may read one file of a run or an export may read all: what the umask allows, nothing else decides.
    umask = os.umask(0o022)
    os.umask(umask)
    for folder in (tmp_path / "run", tmp_path / "exported"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert any(path.suffix == ".safetensors" for path in files)
        for path in files:
            assert stat.S_IMODE(path.stat().st_mode) & 0o666 == 0o666 & ~umask, path


FAILURES = {2: errno.ENOSPC, 4: errno.EDQUOT, 6: errno.EIO}
"""By step: the error with which the disk of rank 1 fails when the step's checkpoint is written."""


def train_with_a_disk_that_fails(config, settings):
    """Train, and let the writing of some checkpoints fail on rank 1."""
    from lavie.distributed import rank
    from lavie.training.trainer import Trainer

    write, usage = saver.write_tensors, shutil.disk_usage

    def failing(path, *args):
        for step, number in FAILURES.items():
            if f"checkpoint-{step}" in str(path) and rank() == 1:
                path.write_bytes(b"torn")
                raise OSError(number, os.strerror(number))
        return write(path, *args)

    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("lavie").addHandler(handler)
    saver.write_tensors = failing
    try:
        with Trainer(config, settings) as trainer:
            trainer.fit()
            return trainer.saver.bytes_needed(), os.listdir(config.output_dir), told
    finally:
        saver.write_tensors, shutil.disk_usage = write, usage


@pytest.mark.slow
def test_a_disk_that_fails_on_one_rank_drops_the_save_on_all_and_the_run_goes_on(rendered, tmp_path):
    config = make_config(rendered, tmp_path / "run", max_train_steps=7, checkpointing_steps=1, **TINY)
    found = run_distributed(train_with_a_disk_that_fails, 2, config, deepspeed_json(tmp_path, 3))
    need, left, lines = found[0]
    assert {name for name in left if "checkpoint" in name} == {f"checkpoint-{step}" for step in (1, 3, 5, 7)}
    assert len(losses(config)) == 7
    dropped = [line for line in lines if "not saved" in line]
    assert len(dropped) == len(FAILURES)
    for (step, number), told in zip(FAILURES.items(), dropped, strict=True):
        assert f"checkpoint-{step} was not saved (1 of 3 in a row): rank 1 on" in told
        assert os.strerror(number) in told
        assert "bytes free in" in told
    # What is needed is foreseen within a hundredth.
    took = sum(p.stat().st_size for p in (tmp_path / "run" / "checkpoint-7").rglob("*") if p.is_file())
    assert took == pytest.approx(need, rel=0.01)


@pytest.mark.slow
def test_a_full_disk_is_foreseen_and_ends_the_run_after_max_failed_saves(rendered, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(saver.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    config = make_config(
        rendered, tmp_path / "run", max_train_steps=9, checkpointing_steps=1, max_failed_saves=2, **TINY
    )
    message = fails(config, deepspeed_json(tmp_path, 3))
    assert "2 checkpoints in a row could not be saved (max_failed_saves): it needs" in message
    assert "has 1,000 free" in message
    assert len(losses(config)) == 2
    assert "checkpoint-1 was not saved (1 of 2 in a row): it needs" in caplog.text
    assert not [name for name in os.listdir(config.output_dir) if "checkpoint" in name]


@pytest.mark.slow
def test_a_run_whose_last_save_is_dropped_says_so(rendered, tmp_path, monkeypatch):
    monkeypatch.setattr(saver.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    config = make_config(rendered, tmp_path / "run", max_train_steps=1, **TINY)
    message = fails(config, deepspeed_json(tmp_path, 3))
    assert "the last checkpoint was not saved: what was trained after step 0 is lost: make room in" in message


def train_recording_calls(config, settings):
    """Train on one rank, and return the calls that put a checkpoint on the disk, in their order."""
    from lavie.training.trainer import Trainer

    calls: list[str] = []
    fsync, rename, rmtree = os.fsync, Path.rename, shutil.rmtree

    def path_of(descriptor):
        return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), config.output_dir)

    os.fsync = lambda descriptor: (calls.append(f"fsync {path_of(descriptor)}"), fsync(descriptor))
    Path.rename = lambda path, target: (calls.append(f"rename {path.name} {Path(target).name}"), rename(path, target))[
        1
    ]
    saver.shutil.rmtree = lambda path, **options: (calls.append(f"delete {Path(path).name}"), rmtree(path, **options))
    try:
        with Trainer(config, settings) as trainer:
            trainer.fit()
    finally:
        os.fsync, Path.rename, saver.shutil.rmtree = fsync, rename, rmtree
    return calls


@pytest.mark.slow
def test_every_file_and_folder_is_on_the_disk_before_the_name_and_before_an_older_one_goes(rendered, tmp_path):
    config = make_config(
        rendered, tmp_path / "run", max_train_steps=2, checkpointing_steps=1, checkpoints_total_limit=1, **TINY
    )
    calls = run_distributed(train_recording_calls, 1, config, deepspeed_json(tmp_path, 3))[0]
    begin = calls.index("rename .checkpoint-1.partial checkpoint-1") + 1
    of_second = [call for call in calls[begin:] if "metrics" not in call]
    hidden = ".checkpoint-2.partial"
    place = of_second.index(f"rename {hidden} checkpoint-2")
    files = [str(p.relative_to(tmp_path / "run/checkpoint-2")) for p in (tmp_path / "run/checkpoint-2").rglob("*")]
    assert {f"fsync {hidden}/{name}" for name in files} | {f"fsync {hidden}"} <= set(of_second[:place])
    assert of_second[place - 2 : place + 4] == [
        f"fsync {hidden}/checkpoint.json",
        f"fsync {hidden}",
        f"rename {hidden} checkpoint-2",
        "fsync .",
        "rename checkpoint-1 .checkpoint-1.old",
        "delete .checkpoint-1.old",
    ]


def train_with_a_slow_disk(config, settings):
    """Train while every file takes half a second to write; return the stalls of the saves, in seconds."""
    import time

    from lavie.training.trainer import Trainer

    write, stalls = saver.write_tensors, []

    def slow(path, *args):
        time.sleep(0.5)
        return write(path, *args)

    saver.write_tensors = slow
    save = saver.Saver.save
    saver.Saver.save = lambda self, step: (save(self, step), stalls.append(self.stall))[0]
    try:
        with Trainer(config, settings) as trainer:
            trainer.fit()
    finally:
        saver.write_tensors, saver.Saver.save = write, save
    return stalls


@pytest.mark.slow
@pytest.mark.parametrize("save_async", (True, False))
def test_the_run_goes_on_while_a_checkpoint_is_written(rendered, tmp_path, save_async):
    """The order of events, not their speed: a stall that holds the half second of a write has waited for it."""
    config = make_config(rendered, tmp_path / "run", max_train_steps=1, save_async=save_async, **TINY)
    [stall] = run_distributed(train_with_a_slow_disk, 1, config, deepspeed_json(tmp_path, 3))[0]
    assert (stall < 0.5) == save_async
    assert damage(tmp_path / "run/checkpoint-1", read_manifest(tmp_path / "run/checkpoint-1")) is None
