"""What tests share: tolerances, tiny configurations, markers, and several ranks on one machine."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .config import UNetConfig

SHARED = Path(os.environ.get("LAVIE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
"""Reference data beside the checkout: golden outputs, real clips. Tests that use it skip where it is absent."""

requires_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no reference data at {SHARED}")
requires_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

TOLERANCES = {
    # One operation or one small network against float64 or another implementation, as a relative L2 error.
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
    torch.float64: 1e-12,
}
GOLDEN_ATOL = 1e-4
"""Whole networks in float32 against the released ones; their own error against float64 is 9e-6."""
ORACLE_ATOL = 1e-5
"""Whole networks in float32 against diffusers' on the same weights."""


LOSS_RTOL = 1e-6
"""Losses of one run in float32 on another number of ranks, whose sums go in another order."""
KERNEL_LOSS_RTOL = 1e-4
"""Losses over 30 steps in float32 with other implementations of the operations: rounding, fed back step by step."""


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance, in float64."""
    expected = expected.double()
    return float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-300))


def tiny_unet(**changes: Any) -> UNetConfig:
    """A base network of about 1 M parameters: two levels, every kind of block."""
    values = dict(
        block_out_channels=(32, 64),
        cross_attention=(True, False),
        layers_per_block=1,
        num_attention_heads=1,
        cross_attention_dim=24,
        norm_num_groups=8,
    )
    return UNetConfig(**{**values, **changes})


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_distributed(function: Callable, world_size: int, *args: Any, timeout: float = 240) -> list[Any]:
    """Run `function(*args)` on `world_size` gloo ranks and return what each returned, by rank.

    `function` must be importable (module level). The ranks are forked from a server that imported DeepSpeed once.
    Raises AssertionError with the traceback of the first rank that failed, or after `timeout` seconds.
    """
    context = multiprocessing.get_context("forkserver")
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    context.set_forkserver_preload(["deepspeed", "lavie.training.trainer"])
    queue, port = context.Queue(), free_port()
    ranks = [
        context.Process(target=_rank_main, args=(queue, rank, world_size, port, function, args), daemon=False)
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    results: dict[int, Any] = {}
    try:
        for _ in ranks:
            rank, value, error = queue.get(timeout=timeout)
            assert error is None, f"rank {rank} failed:\n{error}"
            results[rank] = value
    finally:
        for process in ranks:
            process.join(timeout=10 if len(results) == world_size else 0.1)
            if process.is_alive():
                process.kill()
    return [results[rank] for rank in range(world_size)]


def _rank_main(queue: Any, rank: int, world_size: int, port: int, function: Callable, args: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        queue.put((rank, function(*args), None))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
