"""`lavie doctor cluster` prints a row for each node and every finding, whole, and leaves with 1 where there is one."""

import re

import numpy as np
import pytest
from typer.testing import CliRunner

from lavie.cli.doctor import app
from lavie.cluster import preflight, rank_facts, rendezvous
from lavie.cluster.preflight import Finding, Node, Report
from lavie.data.media.encode import encode_mp4
from tests.cli.commands import run_lavie
from tests.data.datasets import pack_media

NAME = "gpu-0017.rack-12.cluster.example.org"
NODES = (Node("node0", 0, 0.0, None, 0.0), Node(NAME, 8, 12.34, -0.0125, 0.00042))
LATE, CODE = (
    Finding(f"{NAME} (rank 8) started 12 s after the first node: is its disk, or its network, slow?" * 2, False),
    Finding("code: train.py differ", True),
)


@pytest.fixture
def show(monkeypatch, environment):
    """A function: this rank and what is found -> the exit code, and the lines that `lavie doctor cluster` prints."""

    def run(rank: int, *findings: Finding) -> tuple[int, list[str]]:
        environment(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE="16", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
        monkeypatch.setattr(rendezvous, "meet", lambda place, wait, patience: (None, 0.0))
        monkeypatch.setattr(rank_facts, "gather_facts", lambda *_: {})
        monkeypatch.setattr(preflight, "examine", lambda *_args, **_options: Report(NODES, findings))
        done = CliRunner().invoke(app, ["cluster", "configs/smoke/base.yaml"])
        return done.exit_code, done.output.splitlines()

    return run


def test_every_node_has_a_line(show):
    """In 100 columns where a file or a narrow terminal has fewer, so that no name is cut or folded."""
    code, lines = show(0)
    assert code == 0
    rows = [line.split() for line in lines if line.strip()]
    assert rows[0] == ["node", "first", "rank", "late", "clock"]
    assert rows[2:4] == [
        ["node0", "0", "0.0", "s", "reference"],
        [NAME, "8", "12.3", "s", "-12.5", "ms", "(within", "0.4", "ms)"],
    ]
    assert lines[-1] == "16 ranks agree"


def test_findings_are_told_whole_and_end_with_1(show):
    code, lines = show(0, LATE, CODE)
    assert code == 1
    assert lines[-2:] == [f"warning: {LATE.message}", "error: code: train.py differ"]


def test_the_first_rank_alone_speaks(show):
    assert show(8, CODE) == (1, []) and show(8) == (0, [])


def test_data_tells_the_cores_that_a_gpu_needs(tmp_path):
    ramp = np.zeros((6, 32, 48, 3), np.uint8)
    pack_media(tmp_path, {"a": encode_mp4(ramp, 8)})
    words = ["doctor", "data", "smoke/base.yaml", f"data.train={tmp_path}", "data.num_images=0", "data.num_frames=4"]
    words += [
        "data.height=16",
        "data.width=16",
        "data.fps=8",
        "data.frame_stride=null",
        "--samples-per-s",
        10,
        "--gpus",
        1,
        "--rows",
        2,
    ]
    output = run_lavie(*words)
    assert re.search(r"48 x 32, 8 fps, h264 +2 +\d+", output)
    assert re.search(r"a row is a clip of 4x16x16: \d+ ms of a core", output)
    assert re.search(r"trains on 10 rows/s \(--samples-per-s\): [\d.]+ cores for decoding, data.num_workers=\d", output)
    assert re.search(r"this machine: \d+ cores for 1 GPU: ", output)
    assert "decodes nothing" in run_lavie(*words, "data.cache=cache", "data.cuts=1")
