"""Which share of a chip's issue slots a kernel takes that only moves memory: above one it cannot keep up with memory.

    python -m lavie.kernels.issue_slots

A multiprocessor issues four instructions of 32 threads in a cycle. The kernels of GroupNorm, LayerNorm and GEGLU are
compiled for an H200 and their machine code is read: the instructions of the largest loop (of the whole kernel, where
there is none) for an element, times the elements that memory delivers in a second. That is computed, not measured.
"""

import re
import sys
import tempfile
from typing import Any, NamedTuple

from .cases import CASES
from .launch import CHIPS, Launch, recording
from .resources import compile_launch, disassembled

CLOCK, BANDWIDTH = 1.75e9, 4.3e12
"""Cycles and bytes of an H200 in a second, the latter as a device copy reaches them."""
CHIP = CHIPS[9, 0]
LIMIT = 0.75
"""The most that a kernel may take: beside it there are waits, for loads and between dependent instructions."""


class Loop(NamedTuple):
    """The instructions of a loop, or of a kernel."""

    instructions: int
    stalls: int
    """Cycles that a warp by itself takes at least: each instruction says for how long the next one waits."""


class Kernel(NamedTuple):
    """What is known of a kernel that the machine code does not tell: see `KERNELS`."""

    elements: str
    """The constants whose product is the elements of a tile, which one turn of the loop takes."""
    tensors: int
    """Tensors that are read or written, an element each for an element of the tile."""


KERNELS = {
    "_block_statistics_kernel": Kernel("BLOCK_S BLOCK_C", 1),
    "_apply_kernel": Kernel("BLOCK_S BLOCK_C", 2),
    "_block_sums_kernel": Kernel("BLOCK_S BLOCK_C", 2),
    "_input_gradient_kernel": Kernel("BLOCK_S BLOCK_C", 3),
}
"""The kernels of GroupNorm that see the tensor; `_input_gradient_kernel` may read and write one more each."""


def largest_loop(code: str) -> Loop:
    """Return the largest loop of a kernel from what `nvdisasm -hex` prints, or all of it if it has none.

    An instruction is two words of 64 bits, the second on a line of its own; bits 41 to 44 of that are its stall.
    """
    labels: dict[str, int] = {}
    stalls: list[int] = []
    branches: list[tuple[int, str]] = []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(stalls)
        elif word := re.match(r"\s*/\* 0x([0-9a-f]{16}) \*/\s*$", line):
            stalls.append(int(word[1], 16) >> 41 & 15)
        elif branch := re.search(r"\bBRA\b.*`\((\.L_\w+)\)", line):
            branches.append((len(stalls), branch[1]))
    loops = [(labels[to], at + 1) for at, to in branches if labels.get(to, at + 1) < at]
    first, end = max(loops, key=lambda loop: loop[1] - loop[0], default=(0, len(stalls)))
    return Loop(end - first, sum(stalls[first:end]))


def share(launch: Launch, loop: Loop) -> tuple[float, float]:
    """Return the instructions of a launch for an element, and the share of issue slots that they take."""
    name, constants = launch.kernel.__name__, launch.constants
    kernel, values = KERNELS[name], dict(zip(launch.kernel.arg_names, launch.args, strict=False))
    elements = 1
    for constant in kernel.elements.split():
        elements *= constants[constant]
    optional = [values[part] for part in ("added", "y") if name == "_input_gradient_kernel"]
    tensors = kernel.tensors + sum(t is not None for t in optional)
    each = loop.instructions * launch.num_warps * 32 / elements
    delivered = BANDWIDTH / (tensors * launch.args[0].element_size())
    return each, each * delivered / (CHIP.multiprocessors * 4 * 32 * CLOCK)


def measure(case: str) -> dict[tuple[str, int], tuple[Loop, float, float]]:
    """Return the loop, the instructions and the share of each kernel that a case of GroupNorm launches."""
    found: dict[tuple[str, int], Any] = {}
    with recording(CHIP) as noted:
        CASES["group_norm_silu"][case]()
    for launch in noted.launches:
        key = (launch.kernel.__name__, sum(x is not None for x in launch.args))
        if launch.kernel.__name__ in KERNELS and key not in found:
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(compile_launch(launch, CHIP).asm["cubin"])
                file.flush()
                loop = largest_loop(disassembled(file.name, "-hex"))
            found[key] = (loop, *share(launch, loop))
    return found


def main() -> int:
    """Print a line for each kernel, and return 1 if one takes more than LIMIT, else 0."""
    over = 0
    for (name, _), (loop, each, part) in measure("base level 0, resnet").items():
        print(
            f"{name:26} {loop.instructions:5} instructions, {loop.stalls:5} cycles, {each:5.1f} an element, {part:.0%}"
        )
        over += part > LIMIT
    return bool(over)


if __name__ == "__main__":
    sys.exit(main())
