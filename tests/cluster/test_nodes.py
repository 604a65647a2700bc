"""`lavie doctor cluster` and the start of a run, on two nodes that are set up differently."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from lavie.cluster.preflight import LATE
from lavie.data.prepare.synthetic import demo_set
from lavie.training import stop
from tests.nodes import BIN, ROOT, TwoNodes, finish, free_port, python_path, wait_until

QUICK = 30
"""Seconds within which a fault is found, from when the rank has imported what it needs."""
AHEAD = 90
"""Seconds by which a wrong clock is ahead."""
SMOKE = ("configs/smoke/base.yaml", "data.validation=[]", "validation_prompts=[]")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    demo_set(folder, clips=8, images=4, size=16)
    return folder


def ranks(cluster: TwoNodes, port: int) -> list[dict[str, str]]:
    """What a launcher would set on the two nodes."""
    place = dict(MASTER_ADDR=cluster.nodes[0].address, MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_RANK="0")
    return [place | {"RANK": str(i)} for i in range(2)]


def other_checkout(folder: Path) -> Path:
    """A copy of the code with one file changed."""
    for name in ("lavie", "kernels"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    with (folder / "lavie/training/objective.py").open("a") as file:
        file.write("# changed here only\n")
    return folder


@pytest.mark.slow
def test_the_doctor_names_every_difference(cluster, data, tmp_path):
    """Other code, another config, other shards, a late start and a wrong clock on the second node, all at once."""
    changed = other_checkout(tmp_path / "checkout")
    shards = tmp_path / "shards"
    shutil.copytree(data / "train", shards)
    if cluster.separate:  # the same path shows the second node a folder that lacks an index
        shutil.copytree(data / "train", tmp_path / "other")
        next((tmp_path / "other").glob("*.index.jsonl")).unlink()
        cluster.nodes[1].run("mount", "--bind", tmp_path / "other", shards)
    first, second = ranks(cluster, port := free_port())
    doctor = (BIN / "python", "-m", "lavie.cli", "doctor", "cluster", *SMOKE, f"data.train={shards}", "--wait", 60)
    clock = ("faketime", "-f", f"+{AHEAD}s") if shutil.which("faketime") else ()
    started = [cluster.nodes[0].start(*doctor, **first)]
    try:
        wait_until(lambda: cluster.nodes[0].listens(port), "the first rank's store", 120)
        time.sleep(LATE)  # and the second rank's imports come on top
        second |= dict(PYTHONPATH=python_path(changed), PYTHONSAFEPATH="1")
        started.append(cluster.nodes[1].start(*clock, *doctor, "learning_rate=0.5", **second))
        printed = finish(started[0], succeeds=False)
        finish(started[1], succeeds=False)
    finally:
        cluster.stop(*started)
    one, two = (re.escape(node.name) for node in cluster.nodes)
    assert re.search(rf"error: learning_rate: 0.002 on {one} \(rank 0\); 0.5 on {two} \(rank 1\)", printed), printed
    assert re.search(
        rf"error: code: lavie/training/objective.py differ: .* on {one} \(rank 0\), another on {two}", printed
    )
    if cluster.separate:
        assert re.search(
            rf"error: data {shards}: \S+\.index\.jsonl differ: 2 files on {one}; 1 files on {two}", printed
        )
    assert re.search(rf"warning: {two} \(rank 1\) started [1-9]\d s after the first node", printed), printed
    if clock:
        assert re.search(rf"warning: {two} \(rank 1\): its clock is {AHEAD}\.0 s ahead of that of {one}", printed)


def test_what_killed_runs_left_in_shared_memory_is_on_no_node(cluster, request):
    """A semaphore of the faketime of an earlier node's process would end that of a process of the same id."""
    if not cluster.separate:
        pytest.skip("network namespaces are not permitted here, and all processes share one memory")
    left = Path(f"/dev/shm/left-by-a-killed-run-{os.getpid()}")
    request.addfinalizer(lambda: left.unlink(missing_ok=True))
    left.touch()
    for node in cluster.nodes:
        node.run("test", "!", "-e", left)


@pytest.mark.slow
def test_a_run_does_not_start_where_rank_0_is_out_of_reach(cluster, data, tmp_path):
    if not cluster.separate:
        pytest.skip("network namespaces are not permitted here, and a loopback reaches every address")
    _, second = ranks(cluster, free_port())
    began = time.monotonic()
    rank = cluster.nodes[1].start(
        BIN / "python", "train.py", *SMOKE, f"output_dir={tmp_path}/run", **second | {"MASTER_ADDR": "10.77.0.9"}
    )
    printed = finish(rank, succeeds=False)
    assert rank.returncode == stop.LOST
    assert "LostRankError: n2 (rank 1): MASTER_ADDR 10.77.0.9:" in printed and "is out of reach from here" in printed
    assert time.monotonic() - began < QUICK + 60  # the imports of a busy machine are in it
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_does_not_start_where_the_port_is_taken(cluster, tmp_path):
    node, port = cluster.nodes[0], free_port()
    listen = f"import socket, time; s = socket.create_server(('', {port})); print('up', flush=True); time.sleep(300)"
    other = node.start(BIN / "python", "-c", listen)
    try:
        assert other.stdout.readline() == "up\n"
        first, _ = ranks(cluster, port)
        printed = finish(
            node.start(BIN / "python", "train.py", *SMOKE, f"output_dir={tmp_path}/run", **first), succeeds=False
        )
    finally:
        cluster.stop(other)
    assert re.search(
        rf"ClusterError: {node.name} \(rank 0\): MASTER_PORT {port} is taken by process \d+: .*python", printed
    )
    assert not (tmp_path / "run").exists()
