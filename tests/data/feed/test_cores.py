"""The decoding processes of a rank: those that were asked for, else by its cores."""

import os

import pytest

from lavie.config.data import DataConfig
from lavie.data.feed.cores import worker_count


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A node of 64 cores that nobody has shared out."""
    for name in ("SLURM_CPUS_PER_TASK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    return monkeypatch


def data(**changes) -> DataConfig:
    return DataConfig(train="unused", fps=8, **changes)


@pytest.mark.parametrize("asked", (0, 3))
def test_what_was_asked_for_counts(asked):
    assert worker_count(data(num_workers=asked)) == asked


@pytest.mark.parametrize("ranks, wanted", ((None, 16), (8, 6), (64, 1)))
def test_the_ranks_of_a_node_share_its_cores(machine, ranks, wanted):
    if ranks:
        machine.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert worker_count(data()) == wanted


def test_slurm_tells_the_cores_of_each_rank(machine):
    machine.setenv("LOCAL_WORLD_SIZE", "8")
    machine.setenv("SLURM_CPUS_PER_TASK", "12")
    assert worker_count(data()) == 10
