"""Which implementation of an operation runs: its plain PyTorch definition or its Triton kernels.

`auto` takes the kernels wherever they run, and says once per operation why they do not. `triton` insists on them.
"""

import importlib.util
import logging
import os
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import KernelError

Backend = Literal["auto", "torch", "triton"]

log = logging.getLogger("lavie")
_default: Backend = "auto"
_said: set[tuple[str, str]] = set()


def set_backend(backend: Backend) -> None:
    """What "auto" means from now on, in this process: the config's key `kernels`."""
    global _default
    _default = backend


def kernels_for(op: str, backend: str, *args: Any) -> ModuleType | None:
    """The module of the op's kernels if they are to run on `args` (its first is a tensor), else None for PyTorch.

    Raises KernelError with the reason if kernels were asked for and cannot run.
    """
    wanted = backend if backend != "auto" else _default
    if wanted == "torch":
        return None
    reason = _missing(args[0], wanted)
    if reason is None:
        module = importlib.import_module(f"..kernels.{op}", __package__)
        reason = module.unsupported(*args)
        if reason is None:
            return module
    if wanted == "triton":
        raise KernelError(f"{op}: kernels is triton, but {reason}; set kernels to auto or torch")
    if (op, reason) not in _said:
        _said.add((op, reason))
        log.info("%s: plain PyTorch, because %s", op, reason)
    return None


def _missing(tensor: Tensor, wanted: str) -> str | None:
    """Why no Triton kernel can run on the tensor's device, or None."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if not tensor.is_cuda:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if wanted == "triton" and interpreted:
            return None
        return f"the tensors are on the device {tensor.device}" + ("" if interpreted else " and TRITON_INTERPRET is not 1")
    capability = torch.cuda.get_device_capability(tensor.device)
    return f"the GPU has compute capability {capability}, below (8, 0)" if capability < (8, 0) else None
