"""What launching costs this machine's host: timed on a shallow network, and checked on one as deep as the run's.

The networks are narrow models of the run's, and read the smallest clip, so that their time is the host's, nearly: the
channels of their levels have the ratios of the run's, and DeepSpeed's limits shrink as the weights do, so that ZeRO-3
gathers, keeps and sends what it would at full width. The shallow one gives the cost of a launch and, in DeepSpeed's
engine, of a parameter; by these the deep one's time is predicted, and then measured. Times are of the processor, and
those of all networks and engines are taken in turn, so that other programs on the machine disturb all alike.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

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

Key = TypeVar("Key")

STAGES = (0, 2, 3)
"""The ZeRO stages whose hooks are timed; 0 is DeepSpeed's engine without ZeRO, the plain one."""
SETTINGS = {0: "configs/zero2.json", 2: "configs/zero2.json", 3: "configs/zero3.json"}
"""The shipped settings that each is timed with."""
LIMITS = (
    "reduce_bucket_size",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_module_granularity_threshold",
)
"""DeepSpeed's keys that count elements."""
WARM, ROUNDS = 3, 12
"""Micro-batches before ZeRO-3 knows the order of the modules, and those of which the fastest counts."""
ENDLESS = 10**6
"""Micro-batches of a step that is never made: the update is no part of this."""
SHALLOW = 1
"""Residual blocks of a level in the shallow network."""
NARROW = 8
"""Channels of the narrowest level."""


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
        shallow, deep = _narrow(config, SHALLOW), _narrow(config, config.model.layers_per_block)
        elements = sum(p.numel() for p in _network(config, "meta").parameters())
        engines: dict[tuple[TrainConfig, int | None], Any] = {
            (depth, stage): _engine(depth, stage, elements) for depth in (shallow, deep) for stage in STAGES
        }
        calls = {key: _micro_batch(key[0], engine) for key, engine in engines.items()}
        calls |= {(depth, None): _micro_batch(depth) for depth in (shallow, deep)}
        seconds = fastest(calls)
        for engine in engines.values():
            engine.destroy()
    finally:
        torch.set_num_threads(threads)
        if alone:
            end_distributed()

    launches = {depth: _launches(depth) for depth in (shallow, deep)}
    counts = {depth: _trained(depth) for depth in (shallow, deep)}
    launch = seconds[shallow, None] / launches[shallow]
    times = [HostTime("PyTorch", launch * launches[deep] * 1e3, seconds[deep, None] * 1e3)]
    costs = {}
    for stage in STAGES:
        costs[stage] = max(0.0, seconds[shallow, stage] - seconds[shallow, None]) / counts[shallow]
        predicted = launch * launches[deep] + costs[stage] * counts[deep]
        times.append(HostTime(f"ZeRO-{stage}", predicted * 1e3, seconds[deep, stage] * 1e3))
    parameter = (costs[0] * 1e6, costs[2] * 1e6, costs[2] * 1e6, costs[3] * 1e6)
    return MeasuredHost(Host(launch * 1e6, parameter), times)


def host_lines(measured: MeasuredHost) -> list[str]:
    """Return lines about what was measured, prediction beside measurement, and each beside the plain engine."""
    host, (_, _, stage2, stage3) = measured.host, measured.host.parameter
    lines = [
        "# this machine's host, measured on one core (processor time)",
        f"a launch {host.launch:.0f} us; a parameter {stage2:.0f} us under ZeRO-2, {stage3:.0f} us under ZeRO-3",
    ]
    plain = {row.name: row.measured for row in measured.times}["ZeRO-0"]
    for row in measured.times:
        lines.append(
            f"a micro-batch of the run's depth, {row.name}: {row.measured:.0f} ms, predicted {row.predicted:.0f} "
            f"({row.predicted / row.measured - 1:+.0%}), {row.measured / plain:.2f}x of DeepSpeed's engine without ZeRO"
        )
    return lines


def _narrow(config: TrainConfig, layers: int) -> TrainConfig:
    """Return a run with a narrow model of its network, of a number of residual blocks in each level, in float32."""
    model = config.model
    narrowest = min(model.block_out_channels)
    changes = {
        "block_out_channels": tuple(NARROW * max(1, round(width / narrowest)) for width in model.block_out_channels),
        "layers_per_block": layers,
        "num_attention_heads": 1,
        "norm_num_groups": NARROW,
        "cross_attention_dim": math.ceil(model.cross_attention_dim * NARROW / narrowest),
        "rotary_dim": min(model.rotary_dim, NARROW),
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


def _engine(config: TrainConfig, stage: int, elements: int) -> Any:
    """Return DeepSpeed's engine around a narrow model of a network of so many elements, with limits as narrow."""
    settings = with_stage(
        resolve_json(find_config(SETTINGS[stage], "--deepspeed"), config, dist.get_world_size()), stage
    )
    network = _network(config, "cpu")
    share = sum(p.numel() for p in network.parameters()) / elements
    zero = settings["zero_optimization"]
    zero |= {key: max(1, round(zero[key] * share)) for key in LIMITS if key in zero}
    return build_engine(network, config, settings)


def _micro_batch(config: TrainConfig, engine: Any = None) -> Callable[[], None]:
    """Return a forward and backward pass of a run's network in an engine of DeepSpeed's, or in PyTorch alone."""
    call = _call(config, engine or _network(config, "cpu"), "cpu")

    def in_engine() -> None:
        engine.backward(call())
        engine.step()  # counts the micro-batch, no more

    return in_engine if engine else lambda: call().backward()


def fastest(calls: Mapping[Key, Callable[[], None]]) -> dict[Key, float]:
    """Return the processor's seconds of the fastest of ROUNDS runs of each call; the calls take turns."""
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for number in range(WARM + ROUNDS):
        for key, run in calls.items():
            run()  # the one before has left nothing of this one in the caches
            began = time.process_time()
            run()
            if number >= WARM:
                times[key].append(time.process_time() - began)
    return {key: min(seconds) for key, seconds in times.items()}
