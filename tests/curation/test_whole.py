"""Real films, from files to training steps; and the same bytes from every engine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lavie.cli.main import app
from lavie.data.check.check import check
from lavie.testing import SHARED, run_distributed
from tests.curation.cut.films import film, shots
from tests.training.runs import deepspeed_json, losses, make_config, train

ROOT = Path(__file__).parents[2]
VIDEOS = SHARED / "assets/videos"
pytestmark = pytest.mark.slow


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="needs the real films of shared/")
def test_real_films_become_shards_that_train(tmp_path):
    pytest.importorskip("cv2")
    names = [tmp_path / name for name in ("out", "shards")]
    captions = tmp_path / "captions.jsonl"
    rows = [json.loads(line) for line in (VIDEOS / "captions.jsonl").read_text().splitlines()]
    captions.write_text("".join(json.dumps({"film": r["video"], "caption": r["caption"]}) + "\n" for r in rows))
    changes = [f"caption.captioner=sidecar:{captions}", "select.min_side=128"]
    command = ["curate", "run", str(VIDEOS), str(names[0]), *changes, "--shards", str(names[1]), "--workers", "1"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output

    funnel = json.loads((names[0] / "select/funnel.json").read_text())
    report = check([names[1] / "00000.tar"], num_frames=16, frame_stride=1, decode=4)
    assert not report.findings
    assert report.shards[0]["videos"] == funnel["kept"]["clips"] > 20
    told = json.loads((names[0] / "report/report.json").read_text())
    assert told["cut"]["ways"]["copy"] >= 20

    # The loader finds all of them, and a small network learns from them.
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(names[1])
    config = make_config(tmp_path / "data", tmp_path / "run", max_train_steps=30, data={"num_images": 0})
    run_distributed(train, 1, config, deepspeed_json(tmp_path, 1))
    found = losses(config)
    assert len(found) == 30 and all(loss > 0 for loss in found)
    assert sum(found[-5:]) < sum(found[:5])


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Four small films, each a unit, with captions beside them."""
    pytest.importorskip("cv2")
    src = tmp_path_factory.mktemp("films")
    for number in range(4):
        frames = shots(seed=number)  # a second each, so that every film is a unit
        path = src / f"{number}.mp4"
        path.write_bytes(film(frames, g="20", bf="0", times=range(0, 1000 * len(frames), 1000)))
        path.with_suffix(".txt").write_text(f"shots of film number {number}")
    return src


def command(films, folder, *options):
    """Return the command that curates the films with an engine."""
    run = ["-m", "lavie.cli", "curate", "run", str(films), str(folder / "out"), "--shards", str(folder / "shards")]
    rules = "select.rules=[{column: frames, min: 16}, {column: words, min: 3}]"
    return [sys.executable, *run, "caption.captioner=sidecar", "cut.max_seconds=60", rules, *options]


def contents(folder):
    """Return all files of a curation and its shards."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("out/cache/")}


def run(arguments):
    """Run a command to its good end."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def expected(films, tmp_path_factory):
    """What the pool of processes makes."""
    folder = tmp_path_factory.mktemp("local")
    run(command(films, folder, "--workers", "2"))
    found = contents(folder)
    assert sum(name.startswith("out/table/cut/") for name in found) == 4
    assert "shards/00000.index.jsonl" in found and "out/report/index.html" in found
    return found


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun")
def test_ranks_of_mpirun_make_the_same_bytes(films, expected, tmp_path):
    pytest.importorskip("mpi4py")
    run(["mpirun", "-np", "3", "--oversubscribe", "--allow-run-as-root", *command(films, tmp_path, "--engine", "mpi")])
    assert contents(tmp_path) == expected


def test_a_ray_cluster_makes_the_same_bytes(films, expected, tmp_path):
    pytest.importorskip("ray")
    run(command(films, tmp_path, "--engine", "ray", "--workers", "2"))
    assert contents(tmp_path) == expected
