"""torch.compile of a network's blocks, one by one: `compile: leaves`.

A block is what ZeRO-3 gathers as a whole, so DeepSpeed's hooks stay outside of what is compiled, and each graph is
whole (fullgraph). Blocks of equal shapes share a graph.
"""

import os
import shutil
from typing import Any

import torch

from ..config.train import TrainConfig
from ..errors import ConfigError
from .deepspeed import BLOCKS

GRAPHS = 256
"""Graphs that a kind of block may have: shapes of a network's blocks times sizes of clips. PyTorch's own limit is 8."""
BACKEND = "inductor"
"""What torch.compile makes of a graph."""
COMPILERS = ("g++", "clang++")
"""What compiles graphs for a CPU, unless CXX names another."""


def require_compiler(config: TrainConfig, device: torch.device) -> None:
    """Check that a run's blocks can be compiled for a device.

    Raises:
        ConfigError: the compiler that it takes is missing.
    """
    if config.compile == "none" or device.type != "cpu":
        return  # on a GPU, Triton is of PyTorch's own packages
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    if not any(shutil.which(name) for name in wanted):
        raise ConfigError(
            f"compile is leaves, which needs a C++ compiler on a CPU, and there is no {' or '.join(wanted)}: install "
            "one, or set compile to none"
        )


def with_compiled_leaves(engine: Any, config: TrainConfig) -> Any:
    """Return a DeepSpeed engine whose blocks are compiled, if its run asks for that.

    A block is compiled when it first runs with inputs of a shape. The engine's module is changed in place; its
    parameters and their names stay.

    Args:
        engine: the run's.
        config: the run.
    """
    if config.compile == "none":
        return engine
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    for module in engine.module.modules():
        if isinstance(module, BLOCKS):
            # The method, not the module, whose hooks are DeepSpeed's.
            whole = torch.compile(module.forward, fullgraph=True, dynamic=False, backend=BACKEND)
            module.forward = whole  # type: ignore[method-assign]
    return engine
