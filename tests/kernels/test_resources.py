"""Shipped kernels compile for every architecture without spilling, no worse than the table; tiles fit all chips."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from lavie.kernels.cases import CASES
from lavie.kernels.launch import CHIPS, recording
from lavie.kernels.pseudo3d_conv import Tile
from lavie.kernels.resources import COUNTS, GATED, KEYS, OPS, SHARED, faults, read_table, worse

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "_conv_kernel": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "_weight_gradient_kernel": ("BLOCK_I", "BLOCK_O", "BLOCK_S"),
}
"""The constants of a kernel's tile: rows, columns, depth."""
ROW = dict.fromkeys(KEYS, "x") | dict(
    arch="sm_86", registers=100, stack=0, shared=1024, wide=9, accesses=10, local=0, hmma=4, hgmma=0
)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_compiled_kernels_keep_to_the_table():
    """One case of each op on every architecture: `make resources` compiles the rest in minutes."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}  # it would replace the compiler
    command = [sys.executable, "-m", "lavie.kernels.resources", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_the_table_covers_every_op_on_every_architecture_and_shows_no_spill_and_nothing_too_large():
    _, table = read_table()
    assert {(key[0], key[-1]) for key in table} == {(op, arch) for op in OPS for arch in GATED}
    assert not [fault for row in table.values() for fault in faults(row)]


@pytest.mark.parametrize("change", (dict(stack=8), dict(local=2), dict(shared=101_377)))
def test_spills_and_kernels_that_do_not_fit_the_chip_are_seen(change):
    assert len(faults(ROW | change)) == 1 and not faults(ROW)


@pytest.mark.parametrize(
    "change", (dict(registers=101), dict(shared=2048), dict(wide=8), dict(accesses=11), dict(hmma=0))
)
def test_worse_is_seen(change):
    assert len(worse(ROW | change, ROW)) == 1


@pytest.mark.parametrize("change", ({}, dict(registers=90), dict(wide=10), dict(hgmma=3), dict(accesses=9)))
def test_better_passes(change):
    assert not worse(ROW | change, ROW) and set(COUNTS) <= set(ROW)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=SHARED)
def test_tiles_fit_the_shared_memory_of_their_chip(chip):
    """By the bytes of the operands' stages, without compiling; the large tile is taken where there is room for it."""
    tiles = []
    for run in CASES["pseudo3d_conv"].values():
        with recording(chip) as noted:
            run()
        for launch in noted.launches:
            m, n, k = (launch.constants[name] for name in NAMES[launch.kernel.__name__])
            tile = Tile(m, n, k, 1, launch.num_warps, launch.num_stages)
            assert tile.shared(launch.args[0].element_size(), chip) <= chip.shared
            tiles.append((launch.kernel.__name__, m, n))
    assert (("_conv_kernel", 128, 256) in tiles) == (chip.shared > 102_400)
    assert (("_weight_gradient_kernel", 128, 256) in tiles) == (chip.capability in ((9, 0), (10, 0)))
