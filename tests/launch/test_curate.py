"""A curation on a real SLURM of two nodes: a Ray cluster of the job makes the bytes that one machine makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.curation.cut.films import film, shots
from tests.launch.slurm import ROOT

pytestmark = pytest.mark.slow
CHANGES = (
    "caption.captioner=sidecar",
    "cut.max_seconds=60",
    "select.rules=[{column: frames, min: 16}, {column: words, min: 3}]",
)
SMALL = ("--cpus-per-task=1", "--gpus-per-node=0")
PATIENCE = 500
"""Seconds that a job may take on a machine with much else to do: it starts a dozen processes, one after the other."""


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Four small films with captions beside them."""
    pytest.importorskip("cv2")
    pytest.importorskip("ray")
    src = tmp_path_factory.mktemp("films")
    for number in range(4):
        frames = shots(seed=number)  # a second each, so that every film is a unit
        (src / f"{number}.mp4").write_bytes(film(frames, g="20", bf="0", times=range(0, 1000 * len(frames), 1000)))
        (src / f"{number}.txt").write_text(f"shots of film number {number}")
    return src


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a curation and its shards."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("out/cache/")}


def test_two_nodes_make_what_one_machine_makes(cluster, films, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    command = [sys.executable, "-m", "lavie.cli", "curate", "run", str(films), str(alone / "out"), *CHANGES]
    command += ["--shards", str(alone / "shards")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    arguments = [str(films), str(both / "out"), *CHANGES, "--shards", str(both / "shards")]
    job = cluster.submit("curate.slurm", *arguments, options=SMALL, environment={"PYTHONPATH": str(ROOT)})
    output = job.ends("COMPLETED", PATIENCE)
    assert "cut: " in output and ": finished" in output
    assert contents(both) == contents(alone)


def test_an_error_of_the_curation_fails_the_job(cluster, films, tmp_path):
    arguments = [str(films), str(tmp_path / "out"), "cut.splitter=blunt"]
    job = cluster.submit(
        "curate.slurm", *arguments, options=(*SMALL, "--nodes=1"), environment={"PYTHONPATH": str(ROOT)}
    )
    output = job.ends("FAILED", PATIENCE)
    assert "splitter" in output and "failed (exit code" in output


@pytest.mark.parametrize(
    "arguments, wanted",
    ((("films",), "wanted SRC OUT"), (("a", "b", "--engine", "mpi"), "--engine and --address are the job's to set")),
)
def test_arguments_are_looked_at_before_any_node_is_used(cluster, arguments, wanted):
    assert wanted in cluster.submit("curate.slurm", *arguments, options=SMALL).ends("FAILED")
