"""The benchmarks run from end to end but for the timing, and their results become a table and a plot."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("triton")

from lavie.kernels.bench import harness  # noqa: E402
from lavie.kernels.bench.report import END, START, renew  # noqa: E402
from lavie.kernels.cost import Cost  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "op", ("temporal_attention", "group_norm_silu", "pseudo3d_conv", pytest.param("unet", marks=pytest.mark.long))
)
def test_dry_run(op):
    command = [sys.executable, "-m", f"lavie.kernels.bench.{op}", "--dry-run", "--dtype", "fp32"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "triton" in done.stdout and "WRONG" not in done.stdout


def test_without_a_gpu_or_dry_run_it_says_what_to_do():
    command = [sys.executable, "-m", "lavie.kernels.bench.group_norm_silu"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "no CUDA device: give --dry-run" in done.stderr


def test_parts_add_up():
    cost = Cost(1, 20, 300, 4000)
    assert [harness.amounts(cost, part) for part in harness.PARTS] == [(1, 300), (20, 4000), (21, 4300)]
    assert harness.amounts(cost, "both", itemsize=4) == (42, 4300)


def row(way: str, part: str, ms: float, ratio: float, case: str = "level 0, B=1") -> dict[str, str]:
    values = dict(date="2000-01-01", gpu="GPU X", torch="2", triton="3", op="group_norm_silu", case=case)
    values |= dict(dtype="bfloat16", way=way, part=part, ms=str(ms), ratio=str(ratio), share_of_copy="0.85")
    return values | dict(tflop_per_s="7.5")


def test_report(tmp_path):
    results, readme, picture = tmp_path / "results.csv", tmp_path / "README.md", tmp_path / "results.png"
    with results.open("w", newline="") as file:
        writer = csv.DictWriter(file, harness.FIELDS)
        writer.writeheader()
        for ms in (9.0, 0.5):  # the later run counts
            writer.writerows(row("triton", part, ms, 1) for part in harness.PARTS)
            writer.writerows(row("eager", part, 5.0, 5.0 / ms) for part in harness.PARTS)
    readme.write_text(f"Before\n{START}\nold\n{END}\nAfter\n")
    renew(readme, results, picture)
    text = readme.read_text()
    assert text.startswith("Before\n") and text.endswith("After\n") and "old" not in text
    assert "| group_norm_silu | level 0, B=1, bfloat16 | 0.5 ms, 85% of copy" in text and "eager 10.0" in text
    assert "### GPU X" in text and "(results.png)" in text and Image.open(picture).size[0] > 500
    renew(readme, results, picture)  # again: nothing piles up
    assert readme.read_text() == text
