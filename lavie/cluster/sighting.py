"""Where a rank is: what its main thread is at, in which module, and for which collective it waits.

The main thread says which section it is in, and which block of the network. The rest another thread reads from the
frames of the main thread, but only where a hang is suspected: a frame whose variables were read keeps them, and with
them their tensors, until it ends.
"""

import json
import linecache
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/", "/lavie/training/checkpoint/reports.py")
"""Where the functions are that wait for other ranks."""
BETWEEN = ("/deepspeed/",)
"""Where such a wait may also stand: ZeRO waits for the handles of its gathers."""
THROUGH = ("/torch/_ops.py", "/torch/utils/_contextlib.py")
"""What may stand between a wait and those."""
WRAPPERS = ("wrapper", "log_wrapper", "wrapped_fn", "decorate_context", "<lambda>")
"""Names of functions that say nothing of what they wrap."""
NOISE = ("/torch/nn/modules/module.py", "/deepspeed/utils/nvtx.py", *THROUGH)
"""Files of which a stack shows no frames: they only pass calls on."""
NEAR = 4
"""Frames, from the innermost, in which a wait shows."""
KEPT = 30
"""Frames of a stack that are kept, the innermost: what a thousand ranks leave in the store must stay small."""


@dataclass(frozen=True)
class Sighting:
    """What a rank was at when somebody looked."""

    rank: int
    node: str
    """The host name."""
    pid: int
    section: str
    """A key of the config's `watchdog`."""
    step: int
    """The step, counted from 1; 0 before the first."""
    seconds: float
    """How long it had been in the section."""
    module: str = ""
    """The name in the network of the module that was at work, or of the block that was entered last; may be empty."""
    waits: str = ""
    """The collective in which it waited for other ranks; empty if it waited for none."""
    at: str = ""
    """File, line and function of the innermost frame of our own code."""
    stack: tuple[str, ...] = ()
    """The main thread's frames, the innermost last; empty in a beat."""

    def __str__(self) -> str:
        waits = f", waits for the others in {self.waits}" if self.waits else ""
        module = f" in module {self.module}" if self.module else ""
        at = f" at {self.at}" if self.at else ""
        return f"{self.who}: {self.doing}{module}{at}{waits}"

    @property
    def who(self) -> str:
        """The rank with its node and process."""
        return f"rank {self.rank} ({self.node}, process {self.pid})"

    @property
    def doing(self) -> str:
        """The section, since when, and the step."""
        return f"in section {self.section} of step {self.step} for {self.seconds:.0f} s"

    @property
    def place(self) -> tuple[object, ...]:
        """What is the same for ranks that are at the same place."""
        return self.section, self.step, self.module, self.waits, self.at

    def dumps(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: bytes) -> "Sighting":
        """Return what `dumps` wrote."""
        values = json.loads(text)
        return cls(**{**values, "stack": tuple(values["stack"])})


def read_frames(thread: int, names: Mapping[int, str]) -> dict[str, Any]:
    """Return the fields module, waits, at and stack of a Sighting, as the frames of a thread tell them.

    Args:
        thread: the identifier of the thread, as `threading.get_ident` gives it.
        names: the name of each module of the network, by its id.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return {}
    frames = list(_outwards(frame))

    # A thread that waits for the end of another, such as the one that writes a checkpoint, is where that one is.
    joined = next((f.f_locals["self"].ident for f in frames if f.f_code is threading.Thread.join.__code__), None)
    if joined and frames[0].f_code.co_filename == threading.__file__:
        return read_frames(joined, names) or {"at": "the end of a thread"}
    ours = next((f for f in frames if _path(f).rpartition("/lavie/")[1]), frames[-1])
    shown = traceback.StackSummary.from_list(
        [line for line in traceback.extract_stack(frame) if not line.filename.endswith(NOISE)][-KEPT:]
    )
    return {
        "module": next((name for f in frames if (name := _module_of(f, names))), ""),
        "waits": _collective_of(frames),
        "at": f"{'/'.join(_path(ours).split('/')[-3:])}:{ours.f_lineno} {ours.f_code.co_name}",
        "stack": tuple(line.rstrip() for line in shown.format()),
    }


def _outwards(frame: FrameType) -> Iterator[FrameType]:
    """Yield a frame and those that called it."""
    here: FrameType | None = frame
    while here is not None:
        yield here
        here = here.f_back


def _path(frame: FrameType) -> str:
    """Return the path of a frame's file."""
    return frame.f_code.co_filename


def _module_of(frame: FrameType, names: Mapping[int, str]) -> str:
    """Return the name of the network's module that a frame works for, by its local variables; empty if it has none.

    A module gathers in hooks of DeepSpeed, before its forward: those have it as a variable, too.
    """
    for value in list(frame.f_locals.values()):
        if name := names.get(id(value)):
            return name
    return ""


def _collective_of(frames: list[FrameType]) -> str:
    """Return the collective in which the innermost frames wait for other ranks; empty if they do not."""
    found = ""
    for depth, frame in enumerate(frames):
        path = _path(frame)
        of_collectives = any(part in path for part in COLLECTIVES)
        if not of_collectives and not any(part in path for part in BETWEEN + THROUGH):
            break
        line = linecache.getline(path, frame.f_lineno) if depth < NEAR else ""
        if of_collectives or ".wait(" in line or frame.f_code.co_name == "wait":
            found = frame.f_code.co_name if frame.f_code.co_name not in WRAPPERS else found or "wait"
    return "a collective" if found == "wait" else found  # ZeRO's handles do not tell which
