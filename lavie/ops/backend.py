"""Which implementation of an operation runs: its plain PyTorch definition or its Triton kernels.

`auto` takes the kernels wherever they run, and says once per operation why they do not. `triton` insists on them.
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


def require_kernels(backend: Backend, device: torch.device) -> None:
    """Check that a run whose key `kernels` is `backend` can run on `device`.

    Raises:
        KernelError: it is "triton", and no kernel can run there.
    """
    reason = _missing(device, backend) if backend == "triton" else None
    if reason:
        raise KernelError(f"kernels is triton, but {reason}; set kernels to auto or torch")


def kernels_for(op: str, backend: str, *args: Any) -> ModuleType | None:
    """The module of the op's kernels if they are to run on `args`, or None for plain PyTorch.

    The first argument is a tensor, or a list of them.

    Raises KernelError with the reason if kernels were asked for and cannot run.
    """
    if backend == "torch":
        return None
    reason = _missing(_device(args[0]), backend)
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


def _device(argument: Any) -> torch.device:
    return (argument[0] if isinstance(argument, (list, tuple)) else argument).device


@lru_cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None  # looks at the disk: once, not at every operation


def _missing(device: torch.device, wanted: str) -> str | None:
    """Why no Triton kernel can run on the device, or None."""
    if not _installed():
        return "the package triton is not installed"
    if device.type != "cuda":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if wanted == "triton" and interpreted:
            return None
        return f"the tensors are on the device {device}" + ("" if interpreted else " and TRITON_INTERPRET is not 1")
    capability = torch.cuda.get_device_capability(device)
    return f"the GPU has compute capability {capability}, below (8, 0)" if capability < (8, 0) else None
