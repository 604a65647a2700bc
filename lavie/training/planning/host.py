"""What launching costs this machine's host: timed on a shallow network, and checked on one as deep as the run's.

The networks are as narrow as their groups allow and read the smallest clip, so that their time is the host's, nearly.
The shallow one gives the cost of a launch and, in DeepSpeed's engine, of a parameter; by these the deep one's time is
predicted, and then measured. Times are of the processor, so that other programs on the machine hardly disturb them.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from ...config.shipped import find_config
from ...config.train import TrainConfig
from ...models.unet import VideoUNet
from ..deepspeed import build_engine, end_distributed, init_distributed, resolve_json
from ..trained_part import set_trained_part
from .choice import with_stage
from .hardware import Host
from .operations import count_operations

STAGES = (0, 2, 3)
"""The ZeRO stages whose hooks are timed."""
WARM, ROUNDS = 3, 3
"""Micro-batches before ZeRO-3 knows the order of the modules, and those of which the fastest counts."""
ENDLESS = 10**6
"""Micro-batches of a step that is never made: the update is no part of this."""
SHALLOW = 1
"""Residual blocks of a level in the shallow network."""


class HostTime(NamedTuple):
    """A micro-batch of the deep network."""

    name: str
    predicted: float
    """Milliseconds."""
    measured: float
    """Milliseconds."""


class MeasuredHost(NamedTuple):
    """What a machine's core takes, and how well that predicts."""

    host: Host
    times: list[HostTime]


def measure(config: TrainConfig) -> MeasuredHost:
    """Time launches and DeepSpeed's hooks for networks like a run's, on one core of this machine.

    It needs a process group, and makes one of one rank for the while unless there is one.
    """
    threads, alone = torch.get_num_threads(), not dist.is_initialized()
    torch.set_num_threads(1)
    try:
        init_distributed()
        depths = [_narrow(config, SHALLOW), _narrow(config, config.model.layers_per_block)]
        launches = [_launches(depth) for depth in depths]
        counts = [_trained(depth) for depth in depths]
        shallow, deep = (_plain(depth) for depth in depths)
        launch = shallow / launches[0]
        times = [HostTime("PyTorch", launch * launches[1] * 1e3, deep * 1e3)]
        costs = {}
        for stage in STAGES:
            shallow_engine, deep_engine = (_engine(depth, stage) for depth in depths)
            costs[stage] = max(0.0, shallow_engine - shallow) / counts[0]
            predicted = launch * launches[1] + costs[stage] * counts[1]
            times.append(HostTime(f"ZeRO-{stage}", predicted * 1e3, deep_engine * 1e3))
    finally:
        torch.set_num_threads(threads)
        if alone:
            end_distributed()
    parameter = tuple(costs[stage] * 1e6 for stage in (0, 2, 2, 3))
    return MeasuredHost(Host(launch * 1e6, (parameter[0], parameter[1], parameter[2], parameter[3])), times)


def host_lines(measured: MeasuredHost) -> list[str]:
    """Return lines about what was measured, prediction beside measurement."""
    host, (_, _, stage2, stage3) = measured.host, measured.host.parameter
    lines = [
        "# this machine's host, measured on one core (processor time)",
        f"a launch {host.launch:.0f} us; a parameter {stage2:.0f} us under ZeRO-2, {stage3:.0f} us under ZeRO-3",
    ]
    for row in measured.times:
        lines.append(
            f"a micro-batch of the run's depth, {row.name}: {row.measured:.0f} ms, predicted {row.predicted:.0f} "
            f"({row.predicted / row.measured - 1:+.0%})"
        )
    return lines


def _narrow(config: TrainConfig, layers: int) -> TrainConfig:
    """Return a run with a network as narrow as can be, of a number of residual blocks in each level, in float32."""
    model = config.model
    heads = model.num_attention_heads if isinstance(model.num_attention_heads, tuple) else (model.num_attention_heads,)
    width = torch.tensor([model.norm_num_groups, 32, *heads])
    channels = int(torch.lcm(torch.lcm(width[0], width[1]), width[2:].max()))
    changes = {
        "block_out_channels": (channels,) * len(model.block_out_channels),
        "layers_per_block": layers,
        "cross_attention_dim": 32,
        "rotary_dim": min(model.rotary_dim, channels // max(heads) // 2 * 2),
    }
    narrow = {
        "model": model.model_copy(update=changes),
        "mixed_precision": "no",
        "gradient_accumulation_steps": ENDLESS,
        "train_batch_size": 1,
    }
    return config.model_copy(update=narrow)


def _network(config: TrainConfig, device: str) -> VideoUNet:
    """Return the network of a run, with what trains of it."""
    with torch.device(device):
        network = VideoUNet(config.model)
    set_trained_part(network, config)
    network.gradient_checkpointing = config.gradient_checkpointing
    return network


def _trained(config: TrainConfig) -> int:
    """Return how many parameters of a run train."""
    return sum(p.requires_grad for p in _network(config, "meta").parameters())


def _call(config: TrainConfig, network: Any, device: str) -> Callable[[], torch.Tensor]:
    """Return the forward pass to a loss, on the smallest clip of two frames."""
    model, side = config.model, 2 ** (len(config.model.block_out_channels) - 1)
    sample = torch.zeros(1, model.in_channels, 2, side, side, device=device, requires_grad=True)
    text = torch.zeros(1, 1, 2, model.cross_attention_dim, device=device)
    level = torch.zeros(1, dtype=torch.long, device=device) if model.num_noise_levels else None
    timestep = torch.zeros(1, device=device)
    return lambda: network(sample, timestep, text, noise_level=level, num_images=0).float().pow(2).mean()


def _launches(config: TrainConfig) -> int:
    """Return the launches of a forward and backward pass."""
    call = _call(config, _network(config, "meta"), "meta")
    return count_operations(lambda: call().backward(), gradients=True).launches


def _plain(config: TrainConfig) -> float:
    """Return the seconds of a forward and backward pass in plain PyTorch."""
    call = _call(config, _network(config, "cpu"), "cpu")
    return _fastest(lambda: call().backward())


def _engine(config: TrainConfig, stage: int) -> float:
    """Return the seconds of a micro-batch in DeepSpeed's engine."""
    settings = resolve_json(find_config("configs/zero2.json", "--deepspeed"), config, 1)
    engine = build_engine(_network(config, "cpu"), config, with_stage(settings, stage))
    call = _call(config, engine, "cpu")

    def micro_batch() -> None:
        engine.backward(call())
        engine.step()  # counts the micro-batch, no more

    seconds = _fastest(micro_batch)
    engine.destroy()
    return seconds


def _fastest(run: Callable[[], None]) -> float:
    """Return the processor's seconds of the fastest of ROUNDS calls."""
    times = []
    for number in range(WARM + ROUNDS):
        began = time.process_time()
        run()
        if number >= WARM:
            times.append(time.process_time() - began)
    return min(times)
