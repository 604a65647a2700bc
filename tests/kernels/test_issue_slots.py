"""GroupNorm's kernels leave a quarter of the issue slots free, by their machine code, whose loops are read right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from lavie.kernels.issue_slots import BANDWIDTH, CHIP, CLOCK, Loop, largest_loop, share
from lavie.kernels.launch import Launch

ROOT = Path(__file__).resolve().parents[2]


class Named:
    """A kernel of which only the name and the arguments' names are asked."""

    def __init__(self):
        self.__name__ = "_input_gradient_kernel"

    arg_names = ("x", "dy", "dx", "added", "y")


class Halves:
    """A tensor of 16 bits."""

    def element_size(self):
        return 2


def code(*lines):
    """What nvdisasm prints: labels, and instructions (text, cycles that the next one waits)."""
    printed = []
    for line in lines:
        if isinstance(line, str):
            printed.append(f"{line}:")
        else:
            printed.append(f"        /*0000*/   {line[0]} ;   /* 0x0000000000007918 */")
            printed.append(f"                                  /* 0x{line[1] << 41 | 0x1F << 32:016x} */")
    return "\n".join(printed)


def test_the_largest_loop_is_found_and_its_stalls_added_up():
    small, large = "@P0 BRA `(.L_x_1)", "@!P1 BRA `(.L_x_2)"
    forward = ("BRA `(.L_x_3)", 1)
    listing = code(
        ("MOV", 15), ".L_x_1", ("FADD", 4), (small, 5), ".L_x_2", ("FFMA", 2), forward, ("MUFU.EX2", 3), (large, 7)
    )
    assert largest_loop(listing + "\n" + code(".L_x_3", ("EXIT", 5))) == Loop(4, 13)


def test_a_kernel_without_a_loop_is_counted_whole():
    assert largest_loop(code(("LDG", 2), ("STG", 1), ("EXIT", 5))) == Loop(3, 8)


@pytest.mark.parametrize("added,y,tensors", ((None, None, 3), (Halves(), None, 4), (Halves(), Halves(), 5)))
def test_the_share_is_that_of_what_memory_delivers(added, y, tensors):
    constants = dict(BLOCK_S=32, BLOCK_C=64)
    launch = Launch(Named(), (1,), (Halves(), Halves(), Halves(), added, y), constants, num_warps=8, num_stages=1)
    each, part = share(launch, Loop(80, 100))
    assert each == 80 * 256 / 2048 == 10
    slots = CHIP.multiprocessors * 128 * CLOCK
    assert part == pytest.approx(10 * BANDWIDTH / (2 * tensors) / slots)


@pytest.mark.long
def test_the_kernels_keep_under_the_limit():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}  # it would replace the compiler
    command = [sys.executable, "-m", "lavie.kernels.issue_slots"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 5  # the input's gradient alone, and with what it adds and writes again
