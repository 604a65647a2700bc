"""`make bench-gpu` on a machine without network: by a python that stands for what is installed there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c import"*) exit {imports} ;;
  "-c "*) exit 1 ;;
  "-m lavie."*) echo "ran $2 $3 $4" >> {log} ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def bench(tmp_path):
    """Runs the target in a folder of its own with a python that finds the packages or not; the log of its modules."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "constraints.txt").write_text("torch==0\n")
    (tmp_path / "setup.py").touch()
    log, python = tmp_path / "log", tmp_path / "python"

    def run(found: bool) -> tuple[subprocess.CompletedProcess, list[str]]:
        log.write_text("")
        python.write_text(PYTHON.format(imports=int(not found), log=log))
        python.chmod(0o755)
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        command = ["make", "bench-gpu", f"PYTHON={python}", "MINUTES=9"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done, log.read_text().split("\n")[:-1]

    return run


def test_it_runs_by_the_machines_own_python(bench):
    done, ran = bench(True)
    assert not done.returncode and ran == ["ran lavie.kernels.bench.pieces --minutes 9"]
    assert "also needs diffusers, transformers, typer and rich" in done.stdout.splitlines()[0]


def test_what_it_needs_is_named_where_it_is_missing_and_cannot_be_installed(bench):
    done, ran = bench(False)
    assert done.returncode and not ran
    assert "needs the packages torch, triton, pydantic and pyyaml" in done.stderr
