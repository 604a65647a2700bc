"""Every shipped kernel compiles for sm_80 and sm_90 without spilling, and no worse than the committed table says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from lavie.kernels.resources import COUNTS, KEYS, OPS, faults, read_table, worse

ROOT = Path(__file__).resolve().parents[2]
ROW = dict.fromkeys(KEYS, "x") | dict(
    registers=100, stack=0, shared=1024, wide=9, accesses=10, local=0, hmma=4, hgmma=0
)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_compiled_kernels_keep_to_the_table():
    """All for sm_90, one case of each op for sm_80: `make resources` compiles the rest in minutes."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}  # it would replace the compiler
    command = [sys.executable, "-m", "lavie.kernels.resources", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_the_table_covers_every_op_on_both_architectures_and_shows_no_spill():
    _, table = read_table()
    assert {(key[0], key[-1]) for key in table} == {(op, arch) for op in OPS for arch in ("sm_80", "sm_90")}
    assert not [fault for row in table.values() for fault in faults(row)]


@pytest.mark.parametrize("change", (dict(stack=8), dict(local=2)))
def test_spills_are_seen(change):
    assert len(faults(ROW | change)) == 1 and not faults(ROW)


@pytest.mark.parametrize(
    "change", (dict(registers=101), dict(shared=2048), dict(wide=8), dict(accesses=11), dict(hmma=0))
)
def test_worse_is_seen(change):
    assert len(worse(ROW | change, ROW)) == 1


@pytest.mark.parametrize("change", ({}, dict(registers=90), dict(wide=10), dict(hgmma=3), dict(accesses=9)))
def test_better_passes(change):
    assert not worse(ROW | change, ROW) and set(COUNTS) <= set(ROW)
