"""On which GPUs a run fits, what to change where it does not, and how long it might take: computed, not measured."""

from typing import Any

from ..config.train import TrainConfig
from ..models.live_bytes import GIB
from .cost import PEAK_FLOPS, forward_flops
from .memory import Memory, memory_of
from .ways_out import peak_with, ways_out

USABLE = 0.9
"""Share of a GPU's memory that tensors can take: CUDA's context, workspaces of kernels and gaps between tensors need
the rest. Our assumption."""
CARDS = (24, 48, 80)
"""Sizes of GPUs in GB, as they are sold."""
MFU = 0.25
"""Share of the peak rate at which a network of convolutions trains: our assumption. Published runs of Stable Diffusion
on A100s come to 0.28."""
TIMED = ("RTX 4090", "A100", "H100")
"""GPUs for which the time is estimated: words of their names in PEAK_FLOPS."""


def memory_lines(config: TrainConfig, settings: dict[str, Any], ranks: int) -> list[str]:
    """Return lines about what a rank holds, moment by moment, and on which GPUs that fits.

    Args:
        config: the run.
        settings: DeepSpeed's, complete.
        ranks: the number of ranks.
    """
    memory = memory_of(config, settings, ranks)
    return part_lines(memory) + [verdict(config, settings, ranks, card, memory) for card in CARDS]


def part_lines(memory: Memory) -> list[str]:
    """Return lines about what a rank holds, part by part and moment by moment."""
    lines = [f"{name}: {size / GIB:.2f} GiB per rank" for name, size in memory.held.items() if size]
    lines.append(f"states in all: {memory.states / GIB:.2f} GiB per rank")
    for moment, parts in memory.moments.items():
        told = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
        lines.append(f"on top in {moment}: {sum(parts.values()) / GIB:.2f} GiB ({told})" if told else f"{moment}: 0")
    lines.append(f"peak: {memory.peak / GIB:.2f} GiB per rank, in {memory.worst}; computed, not measured")
    return lines


def usable_bytes(card: float) -> float:
    """Return the bytes that tensors can take of a card's memory, in GB."""
    return card * USABLE * GIB


def verdict(config: TrainConfig, settings: dict[str, Any], ranks: int, card: float, memory: Memory) -> str:
    """Return whether a run fits a card of so many GB, and otherwise what to change first."""
    limit = usable_bytes(card)
    text = f"{card:g} GB: {memory.peak / GIB:.1f} GiB of the {limit / GIB:.1f} GiB that tensors can take: "
    if memory.peak <= limit:
        return text + "fits"
    changes = ways_out(config, settings, ranks, limit)
    if not changes:
        return text + "does not fit, whatever is turned: give it more GPUs (configs/zero3.json)"
    names = [name for name, _, _ in changes]
    return (
        text
        + f"does not fit; it does with {' '.join(names)} ({peak_with(config, settings, ranks, changes) / GIB:.1f} GiB)"
    )


def time_lines(config: TrainConfig, ranks: int) -> list[str]:
    """Return lines about the work of a run and, with assumptions that they tell, about its time."""
    lines, per_clip = [], []
    for size in config.data.sizes:
        # Backward costs twice the forward, and what is computed again costs once more.
        passes = 3 + config.gradient_checkpointing
        forward = forward_flops(config, size)
        per_clip.append(forward * passes)
        again = f"; {passes * forward / 1e12:.3f} with what is computed again" if config.gradient_checkpointing else ""
        lines.append(
            f"work: {3 * forward / 1e12:.3f} TFLOP per clip of {size.name} with its images (forward and backward"
            f"{again})"
        )
    clips = config.train_batch_size * config.gradient_accumulation_steps * config.max_train_steps
    work = clips * sum(per_clip) / len(per_clip)
    hours = [f"{name} {work / PEAK_FLOPS[name] / MFU / 3600:.1f} h" for name in TIMED]
    lines.append(
        f"time of {config.max_train_steps} steps if {MFU:.0%} of the GPU's bf16 peak is reached (an assumption, not "
        f"measured), without encoding, validation or waiting for data: {', '.join(hours)}"
        + (f"; times {ranks} in GPU-hours" if ranks > 1 else "")
    )
    return lines
