"""Every engine makes the same bytes, and what an engine loses it does again."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lavie.curation.engine.local import LocalEngine
from lavie.curation.engine.ray import RayEngine, ray_engine
from lavie.curation.run import run_stage
from lavie.errors import ConfigError
from tests.curation.engine.runs import contents, listed
from tests.curation.here import Here
from tests.curation.toy import STAGES, ToyConfig

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What an undisturbed run makes; the films of all tests are the same but for the time that they were written."""
    out = listed(tmp_path_factory.mktemp("expected"))
    for place in STAGES:
        run_stage(out, place, ToyConfig(), Here())
    return values(out)


def values(out):
    """Return what a curation holds, without what hangs on the time at which the films were written."""
    from lavie.curation.table import read_table

    tables = {p.relative_to(out).as_posix(): read_table(p).to_pydict() for p in sorted(out.glob("table/*/*.parquet"))}
    return tables | {name: data for name, data in contents(out).items() if not name.endswith(".parquet")}


def kill_worker(item):
    """Do a task, but be killed at the first try of the third one."""
    from lavie.curation.perform import perform

    mark = Path(item.out).parent / "killed"
    if item.unit == "000002" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return perform(item)


def die(number):
    """Be killed at one item, always."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_a_killed_worker_of_the_pool_costs_nothing(tmp_path, expected, monkeypatch):
    out = listed(tmp_path)
    monkeypatch.setattr("lavie.curation.run.perform", kill_worker)
    for place in STAGES:
        assert not run_stage(out, place, ToyConfig(), LocalEngine(2)).failed
    assert (tmp_path / "killed").exists()
    assert values(out) == expected


@pytest.mark.slow
def test_an_item_that_kills_its_process_each_time_is_given_up_and_no_other():
    found = list(LocalEngine(2).map(die, list(range(6))))
    assert sorted(item for item, _, error in found if not error) == [0, 1, 2, 4, 5]
    [(item, result, error)] = [one for one in found if one[2]]
    assert item == 3 and result is None and "killed 8 times, the last 5 while alone" in error


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun")
def test_the_ranks_of_mpirun_make_the_same(tmp_path, expected):
    pytest.importorskip("mpi4py")
    out = listed(tmp_path)
    command = ["mpirun", "-np", "3", "--oversubscribe", "--allow-run-as-root", sys.executable]
    command += ["-m", "tests.curation.engine.runs", str(out), "mpi"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert values(out) == expected


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun")
def test_one_rank_is_told_how_to_start_more(tmp_path):
    pytest.importorskip("mpi4py")
    # MPI is begun in a process of its own: what it leaves in the environment would disturb the next mpirun.
    command = [sys.executable, "-m", "tests.curation.engine.runs", str(tmp_path), "mpi"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ConfigError: --engine mpi with one rank: start it by mpirun -np N or srun, with N >= 2" in done.stderr


@pytest.mark.slow
def test_a_lost_node_of_a_ray_cluster_costs_nothing(tmp_path, expected, monkeypatch):
    """Two nodes of one place each: the second is killed while it works, and a third one joins."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = listed(tmp_path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = []
    try:
        second = cluster.add_node(num_cpus=1)

        def disturb():
            """Kill the second node when it has done some of the first stage."""
            while len(list(out.glob("table/cut/*.parquet"))) < 5:
                time.sleep(0.05)
            cluster.remove_node(second, allow_graceful=False)
            lost.append(len(list(out.glob("table/cut/*.parquet"))))

        thread = threading.Thread(target=disturb)
        thread.start()
        with ray_engine(cluster.address, None) as engine:
            assert isinstance(engine, RayEngine)
            for place in STAGES:
                assert not run_stage(out, place, ToyConfig(pause=0.1), engine).failed
        thread.join()
    finally:
        cluster.shutdown()
    assert 5 <= lost[0] < 20
    assert values(out) == expected


@pytest.mark.parametrize("address, why", (("127.0.0.1:1", "refused"), ("node7", "wanted host:port")))
def test_no_cluster_at_an_address_is_a_clear_error(address, why):
    pytest.importorskip("ray")
    with (
        pytest.raises(ConfigError, match=f"--address {address}: no cluster answers: .*{why}"),
        ray_engine(address, None),
    ):
        pass
