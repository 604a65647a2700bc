"""An output_dir belongs to one run at a time, and a job that comes back to the same step again and again is ended."""

import errno
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lavie.errors import CheckpointError, ConfigError, TrainingError
from lavie.run_folder import MANIFEST
from lavie.testing import run_distributed
from lavie.training.output_dir import LOCK, RECORD, TRIES, claim, require_own, require_progress
from tests.training.runs import deepspeed_json, make_config, train

ROOT = Path(__file__).resolve().parents[2]
OTHER = "import sys; from lavie.training.output_dir import claim; claim(sys.argv[1]); print('up', flush=True); input()"


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Starts another run in tmp_path, under some job's number or none."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    started = []

    def start(**environment: str) -> subprocess.Popen:
        command = [sys.executable, "-c", OTHER, str(tmp_path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **pipes))
        assert started[0].stdout.readline() == "up\n"
        return started[0]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_second_run_is_refused_on_every_rank(rendered, tmp_path, other):
    process = other(SLURM_JOB_ID="12")
    config = make_config(rendered, tmp_path, max_train_steps=1)
    with pytest.raises(Exception, match=rf"is in use by SLURM job 12, process {process.pid} on .*set another"):
        run_distributed(train, 2, config, deepspeed_json(tmp_path, 3))
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_the_folder_is_free_when_the_other_is_gone(tmp_path, other):
    process = other()
    with pytest.raises(TrainingError, match=f"in use by process {process.pid}"):
        claim(tmp_path)
    process.kill()
    process.wait()
    claim(tmp_path)
    claim(tmp_path)  # a second trainer of this process


@pytest.mark.slow
def test_a_job_that_comes_back_takes_over_what_its_dead_node_held(tmp_path, other, monkeypatch):
    """But not from a process that lives, nor from another srun of the same start."""
    other(SLURM_JOB_ID="12")
    lock = tmp_path / LOCK
    here, elsewhere = lock.read_text(), re.sub("on .*, restart", "on dead-node, restart", lock.read_text())
    assert here != elsewhere
    for job, restarts, text in (("123", "1", elsewhere), ("12", "1", here), ("12", "0", elsewhere)):
        lock.write_text(text)
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        with pytest.raises(TrainingError, match="in use by SLURM job 12,"):
            claim(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    claim(tmp_path)
    assert ", restart 1" in lock.read_text()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def lockf(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    claim(tmp_path)
    assert f"{LOCK} cannot be locked (Function not implemented)" in caplog.text


def test_an_output_dir_that_cannot_be_is_told_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=f"output_dir {place}: no folder"):
            claim(place)


@pytest.fixture
def start(tmp_path, monkeypatch):
    def start(step: int, job: str = "12", restarts: int = 0) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        if not restarts:
            monkeypatch.delenv("SLURM_RESTART_COUNT")
        require_progress(tmp_path, step)

    return start


def test_restarts_that_save_may_be_many(start):
    for restarts in range(5 * TRIES):
        start(restarts // TRIES, restarts=restarts)


@pytest.mark.parametrize("first", (0, 7))
def test_restarts_from_one_step_are_limited(start, first):
    start(3, restarts=first)
    start(4, restarts=first)
    for restarts in range(first + 1, first + TRIES):
        start(4, restarts=restarts)
    with pytest.raises(TrainingError, match=rf"SLURM job 12 was started {TRIES} more times from step 4 and saved noth"):
        start(4, restarts=first + TRIES)
    # Submitted anew, a job has its own tries, counted from its own first start.
    start(4, job="13")
    with pytest.raises(TrainingError, match="SLURM job 13 was started"):
        start(4, job="13", restarts=TRIES)
    start(4, job="14", restarts=first + TRIES)


@pytest.mark.parametrize("text", (b"", b"\0\0", b"[1]", b"{}", b'{"job": "12", "step": 4, "restarts": "x"}', b"\xff"))
def test_a_damaged_record_of_restarts_is_told_and_counted_anew(tmp_path, start, caplog, text):
    (tmp_path / RECORD).write_bytes(text)
    start(4)
    assert f"{RECORD} is damaged" in caplog.text
    with pytest.raises(TrainingError, match="saved nothing"):
        start(4, restarts=TRIES)


def test_starts_by_hand_are_not_counted(tmp_path, start, monkeypatch):
    for _ in range(2 * TRIES):  # in one allocation, which is one job
        start(0)
    monkeypatch.delenv("SLURM_JOB_ID")
    require_progress(tmp_path / "new", 0)
    assert not (tmp_path / "new").exists()


def test_a_new_run_is_refused_beside_checkpoints_of_another_hidden_and_damaged_ones_too(tmp_path, caplog):
    new = make_config(tmp_path, tmp_path / "run")
    resumed = new.model_copy(update={"resume_from_checkpoint": "auto"})
    for name, files, told in (
        (".checkpoint-4.partial", (), None),  # torn: the next save deletes it
        (".checkpoint-5.partial", (MANIFEST,), r"holds \.checkpoint-5\.partial of a run before"),
        ("checkpoint-7", (), "holds checkpoint-7 of a run before"),
    ):
        folder = tmp_path / "run" / name
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
        if told:
            with pytest.raises(CheckpointError, match=told):
                require_own(new, 0)
        else:
            require_own(new, 0)
    require_own(new, 7)
    assert not caplog.messages
    require_own(resumed, 6)
    assert "checkpoint-7 is later than step 6" in caplog.text
