"""Which rank a process is, and where it meets the others, by what each launcher leaves in the environment."""

import itertools
import os
import socket
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lavie import launcher
from lavie.data.prepare.indexing import several_ranks
from lavie.errors import ConfigError
from lavie.launcher import (
    LOCAL_SIZES,
    MPI_LOCAL_RANKS,
    MPI_NUMBERS,
    SLURM_NUMBERS,
    LaunchedRank,
    Place,
    find_place,
    launched_rank,
    list_some,
    local_world_size,
    name_ranks,
    planned_world_size,
)


@pytest.fixture(autouse=True)
def _nobody_launched_this(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", *itertools.chain(*MPI_NUMBERS), *MPI_LOCAL_RANKS):
        monkeypatch.delenv(name, raising=False)
    for name in SLURM_NUMBERS.values():
        monkeypatch.delenv(name, raising=False)


OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
PTY = {"PMI_RANK": "0", "PMI_SIZE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}
HYDRA = {"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "2", "MPI_LOCALRANKID": "0"}
SRUN_PMI = {"PMI_RANK": "5", "PMI_SIZE": "8"}
SLURM = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8"}


@pytest.mark.parametrize(
    "environment, expected, shares_an_index",
    (
        ({}, LaunchedRank("none", 0, 1, None), False),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, LaunchedRank("torch", 2, 4, 0), False),
        ({"RANK": "0"}, LaunchedRank("torch", 0, 1, None), False),
        (OPEN_MPI, LaunchedRank("mpi", 3, 4, 1), True),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, LaunchedRank("mpi", 1, 2, None), True),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, LaunchedRank("mpi", 1, 2, 1), True),
        # Where SLURM speaks PMI, srun gives its numbers to its tasks, to the one of `srun --pty bash` too.
        (SLURM | SRUN_PMI, LaunchedRank("slurm", 5, 8, 1), True),
        (PTY, LaunchedRank("none", 0, 1, None), False),
        (SLURM | {"PMI_RANK": "0", "PMI_SIZE": "1"}, LaunchedRank("slurm", 5, 8, 1), True),
        # MPICH's mpirun has started its daemons by srun: one on each of two nodes, or a rank each.
        (HYDRA | {"PMI_RANK": "9", "PMI_SIZE": "16"}, LaunchedRank("mpi", 9, 16, 0), True),
        (HYDRA | {"PMI_RANK": "1", "PMI_SIZE": "2"}, LaunchedRank("mpi", 1, 2, 0), True),
        (SLURM, LaunchedRank("slurm", 5, 8, 1), True),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, LaunchedRank("none", 0, 1, None), False),
        # srun starts mpirun's daemons, and torchrun too: what started this process last counts.
        (SLURM | OPEN_MPI, LaunchedRank("mpi", 3, 4, 1), True),
        (SLURM | OPEN_MPI | {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, LaunchedRank("torch", 0, 2, 0), False),
    ),
)
def test_the_launcher_says_the_rank(monkeypatch, environment, expected, shares_an_index):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert launched_rank() == expected and planned_world_size() == expected.world_size
    assert several_ranks() == shares_an_index
    assert dict(os.environ) == before


def test_a_number_of_ranks_alone_is_a_plan_and_no_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1024")
    assert planned_world_size() == 1024
    assert launched_rank() == LaunchedRank("none", 0, 1, None)


@pytest.mark.parametrize(
    "environment, message",
    (
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is '2': wanted 0 to 1"),
        ({"PMI_RANK": "one", "PMI_SIZE": "2"}, "PMI_RANK is 'one': wanted 0 to 1"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID is '': wanted 0 to 1"),
    ),
)
def test_a_rank_that_cannot_be(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        launched_rank()


def test_the_launcher_says_how_many_ranks_a_node_has(monkeypatch):
    """As torchrun and as DeepSpeed's launcher name it; nobody says it of a rank alone."""
    for name in LOCAL_SIZES:
        monkeypatch.delenv(name, raising=False)
    assert local_world_size() == 1
    monkeypatch.setenv("LOCAL_SIZE", "4")
    assert local_world_size() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="LOCAL_WORLD_SIZE is 'two': wanted 1 or more"):
        local_world_size()


def test_how_many_names_are_shown():
    assert list_some(["a"]) == "a" and list_some(list("abcd")) == "a, b, c, d"
    assert list_some(list("abcde")) == "a, b, c, d and 1 more"


def test_ranks_are_named_by_ranges():
    assert name_ranks([3], 64) == name_ranks([3]) == "rank 3"
    assert name_ranks([0, 1, 2, 5, 7, 8], 64) == "ranks 0-2, 5, 7-8"
    assert name_ranks(range(64), 64) == "all 64 ranks"
    assert name_ranks(range(0, 64, 2)) == "ranks 0, 2, 4, 6 and 28 more"


def test_a_rank_without_a_number_of_ranks_is_alone(environment):
    environment(RANK="0")
    assert find_place().world_size == 1


def test_tasks_of_srun_are_ranks_of_one_run(environment):
    """And not as many runs that write to one folder."""
    environment(SLURM_PROCID="5", SLURM_LOCALID="1", SLURM_STEP_NUM_TASKS="8")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 8, but MASTER_ADDR and MASTER_PORT not set: .*srun"):
        find_place()
    environment(MASTER_ADDR="n1", MASTER_PORT="29501")
    assert replace(find_place(), node="x") == Place(5, 8, 1, "n1", 29501, "x", False)


def test_an_mpi_that_knows_nothing_of_mpirun_is_found(environment, monkeypatch):
    """mpi4py for another MPI takes every process for a run of its own."""
    alone = SimpleNamespace(COMM_WORLD=SimpleNamespace(rank=0, size=1))
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=alone))
    environment(PMI_RANK="1", PMI_SIZE="2")
    with pytest.raises(ConfigError, match="mpirun started 2 processes, but mpi4py sees 1"):
        find_place()


@pytest.mark.parametrize("error", (ModuleNotFoundError("No module named 'mpi4py'"), RuntimeError("cannot load MPI")))
def test_an_mpi4py_that_cannot_be_imported_is_told(environment, monkeypatch, error):
    """It raises RuntimeError where it finds no MPI library."""

    class Finder:
        def find_spec(self, name, *_):
            if name.startswith("mpi4py"):
                raise error

    monkeypatch.delitem(sys.modules, "mpi4py", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    environment(PMI_RANK="1", PMI_SIZE="2")
    with pytest.raises(ConfigError, match=f"PMI_RANK and PMI_SIZE say .*{error}.*pip install 'lavie.mpi.'.*unset"):
        find_place()


def test_others_are_told_the_address_of_this_nodes_name(monkeypatch):
    monkeypatch.setattr(launcher, "node_addresses", lambda loopback: ["172.17.0.1", "10.0.0.5"])
    for named, told in (("10.0.0.5", "10.0.0.5"), ("127.0.1.1", "172.17.0.1")):
        monkeypatch.setattr(socket, "gethostbyname", lambda name, named=named: named)
        assert launcher._known_address() == told


def test_a_launcher_told_the_place(environment):
    environment(RANK="3", LOCAL_RANK="1", WORLD_SIZE="4", MASTER_ADDR="n1", MASTER_PORT="29501")
    assert replace(find_place(), node="x") == Place(3, 4, 1, "n1", 29501, "x", False)
    environment(TORCHELASTIC_USE_AGENT_STORE="True")
    assert find_place().hosted


@pytest.mark.parametrize(
    "values, message",
    (
        ({"RANK": "2"}, "RANK is '2': wanted 0 to 1"),
        ({"RANK": "one"}, "RANK is 'one'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2': wanted 1 or more"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is '99999': wanted 1 to 65535"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE is 2, but MASTER_ADDR not set"),
    ),
)
def test_a_place_that_cannot_be(environment, values, message):
    environment(**{**dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="n1", MASTER_PORT="29501"), **values})
    with pytest.raises(ConfigError, match=message):
        find_place()
