"""A job that comes back often is well, one that comes back to the same step is not."""

import pytest

from lavie.errors import TrainingError
from lavie.training.restarts import TRIES, require_progress


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
    start(4, job="13")  # submitted anew


def test_starts_by_hand_are_not_counted(tmp_path, start, monkeypatch):
    for _ in range(2 * TRIES):  # in one allocation, which is one job
        start(0)
    monkeypatch.delenv("SLURM_JOB_ID")
    require_progress(tmp_path / "new", 0)
    assert not (tmp_path / "new").exists()
