"""The smallest kernel: whether Triton can compile one here and launch it, and what the compiler says if not."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl

from .launch import launch

LONGEST = 400


@triton.jit
def _one_kernel(x):  # (1,) float32, written
    """Write 1."""
    tl.store(x, 1.0)


def launch_fault(device: torch.device) -> str | None:
    """Return why no kernel can be launched on a device, or None. Waits for the device.

    At the first launch Triton compiles a stub of its own with the C compiler, for which slim images lack gcc or
    Python.h; it is what the compiler prints that tells.
    """
    printed: list[str] = []
    try:
        with _stderr_in(printed):
            x = torch.zeros(1, device=device)
            launch(_one_kernel, (1,), x)
            done = x.item() == 1.0
    except Exception as error:  # whatever compilers, drivers and their wrappers raise
        lines = [line.strip() for line in printed if "error" in line.lower()] or printed[-1:]
        told = " / ".join([f"{type(error).__name__}: {str(error).strip()}"[:LONGEST], *lines[:2]])
        return f"Triton cannot launch a kernel on {device} ({told}); it needs gcc and Python.h (python3-dev)"
    return None if done else f"a kernel of one store did not write its number on {device}"


@contextmanager
def _stderr_in(lines: list[str]) -> Iterator[None]:
    """Put into `lines` what is written to the process's standard error within the block, by compilers too."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().splitlines()
