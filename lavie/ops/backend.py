"""Which implementation of an operation runs: its plain PyTorch definition or its Triton kernels.

`auto` takes the kernels wherever they run, and logs once per operation why they do not. `triton` insists on them. On a
GPU they run where the smallest one has been launched.
"""

import importlib.util
import logging
import os
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal

import torch

from ..errors import KernelError

Backend = Literal["auto", "torch", "triton"]

log = logging.getLogger("lavie")
_said: set[tuple[str, str]] = set()
"""What was logged, as (operation, reason): each once in a process."""
_faults: dict[int, str | None] = {}
"""Why no kernel can be launched on the GPU of an index, or None: found out once in a process."""


def require_kernels(backend: Backend, device: torch.device | None) -> None:
    """Check that a run whose key `kernels` is `backend` can run on `device`; on None, that its package is installed.

    "auto" on a GPU without kernels is slower than it need be, of which a warning tells.

    Raises:
        KernelError: it is "triton", and no kernel can run there.
    """
    reason = None
    if backend != "torch":
        reason = _missing(device, backend) if device else _not_installed()
    if reason and backend == "auto" and device is not None and device.type == "cuda":
        log.warning("kernels is auto, and operations run in plain PyTorch: %s", reason)
    if reason and backend == "triton":
        raise KernelError(f"kernels is triton, but {reason}; set kernels to auto or torch")


def kernels_for(op: str, backend: str, *args: Any) -> ModuleType | None:
    """Return the module of an operation's kernels if they are to run on `args`, or None for plain PyTorch.

    Args:
        op: the operation, which is also the name of its module in kernels/.
        backend: "auto", "torch" or "triton".
        args: what the module's `unsupported` is asked about; the first is a tensor on the device to run on.

    Raises:
        KernelError: kernels were asked for and cannot run, with the reason.
    """
    if backend == "torch":
        return None
    reason = _missing(args[0].device, backend)
    if reason is None:
        module = importlib.import_module(f"..kernels.{op}", __package__)
        reason = module.unsupported(*args)
        if reason is None:
            return module
    if backend == "triton":
        raise KernelError(f"{op}: kernels is triton, but {reason}; set kernels to auto or torch")
    if (op, reason) not in _said:
        _said.add((op, reason))
        log.info("%s: plain PyTorch, because %s", op, reason)
    return None


def under_autocast(x: torch.Tensor) -> bool:
    """Return whether autocast decides about dtypes, operation by operation, on x's device."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


@lru_cache
def _installed() -> bool:
    """Return whether Triton is installed. Looking at the disk is done once, not at every operation."""
    return importlib.util.find_spec("triton") is not None


def _not_installed() -> str | None:
    """Return why there are no Triton kernels anywhere on this machine, or None."""
    return None if _installed() else "the package triton is not installed"


def _missing(device: torch.device, wanted: str) -> str | None:
    """Return why no Triton kernel can run on the device, or None."""
    if reason := _not_installed():
        return reason
    if device.type != "cuda":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if wanted == "triton" and interpreted:
            return None
        return f"the tensors are on the device {device}" + ("" if interpreted else " and TRITON_INTERPRET is not 1")
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"the GPU has compute capability {capability}, below (8, 0)"
    return _launch_fault(device)


def _launch_fault(device: torch.device) -> str | None:
    """Return why Triton cannot launch a kernel on a GPU, or None."""
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _faults:
        probe = importlib.import_module("..kernels.probe", __package__)
        _faults[index] = probe.launch_fault(torch.device("cuda", index))
    return _faults[index]
