"""A training pass of a base network of middle size, counted and timed on a CPU beside the released way.

    python -m lavie.bench.training_pass [--rounds N] [--compile]

Counted, in one pass each: operations, the launches that they would be on a GPU, bytes allocated, bytes alive between
forward and backward, and layout copies. Then the ways take turns on one thread, and the ratios of their CPU times are
printed.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..config.model import UNetConfig
from ..models.live_bytes import LiveBytes, moves_nothing
from ..models.unet import VideoUNet
from .released_network import ReleasedNetwork

MIDDLE = UNetConfig(block_out_channels=(64, 128, 256, 256), num_attention_heads=2, norm_statistics="pooled")
"""The network: the base stage's, a fifth as wide. Two heads, for RoPE turns 32 dims of each."""
CLIP, IMAGES, SIZE, WORDS = 16, 4, (20, 32), 77
COPY = 64 * 1024
"""Bytes from which a copy counts: below are vectors and tables."""

MOVES = {
    *("clone", "copy_", "_to_copy", "copy", "contiguous", "constant_pad_nd", "index", "index_select", "gather"),
    *("roll", "repeat", "slice_backward", "select_backward", "as_strided_scatter", "slice_scatter", "select_scatter"),
}
"""Operations that move elements to another place and do nothing else."""
LAUNCHES = {
    # ours, by the launches in kernels/
    "group_norm_silu": 3,
    "group_norm_silu_backward": 3,
    "add_layer_norm_backward": 2,
    "temporal_attention_backward": 2,  # the second adds up the gradients of the bias
    # PyTorch's on CUDA: moments, fused parameters, the map; the sums, their parameters, dx, the affine map's gradients
    "native_group_norm": 3,
    "native_group_norm_backward": 4,
    "native_layer_norm_backward": 2,
    "_scaled_dot_product_flash_attention_for_cpu_backward": 3,
}
"""Kernels that an operation starts on a GPU, where it is more than one; `_launches` counts convolutions."""


class Counts(LiveBytes):
    """What a computation does, operation by operation, in the block of this mode."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.launches = self.allocated = 0
        self.copies: Counter[tuple[str, tuple[int, ...]]] = Counter()
        """Layout copies of at least `COPY` bytes, by operation and shape."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count it unless its result is a view of what it was given."""
        name = func.overloadpacket.__name__
        before = self.live
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if moves_nothing(func):
            return result
        self.operations[name] += 1
        self.launches += _launches(name, args)
        self.allocated += max(self.live - before, 0)
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if name in MOVES and outputs and outputs[0].nbytes >= COPY:
            self.copies[name, tuple(outputs[0].shape)] += 1
        return result


def _launches(name: str, args: Any) -> int:
    """Return the kernels that an operation would start on a GPU."""
    if name == "convolution":
        return 2 if args[2] is not None else 1  # PyTorch adds the bias in a kernel of its own
    if name == "convolution_backward":
        return sum(args[10])  # the gradients of input, weight and bias that are asked for
    return LAUNCHES.get(name, 1)


class Pass(NamedTuple):
    """The counts of one training pass."""

    forward: Counts
    backward: Counts
    alive: int
    """Bytes that forward made and backward needs, the output among them."""
    loss: float


def middle_network(seed: int = 0) -> VideoUNet:
    """Return the network with random weights, none of them zero, so that every gradient is at work."""
    torch.manual_seed(seed)
    network = VideoUNet(MIDDLE)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    return network


def middle_inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return a sample with the memory (B, F, H, W, C), its timestep, and the text of its clip and images."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(1, CLIP + IMAGES, *SIZE, MIDDLE.in_channels, generator=generator).permute(0, 4, 1, 2, 3)
    text = torch.randn(1, 1 + IMAGES, WORDS, MIDDLE.cross_attention_dim, generator=generator)
    return sample, torch.tensor([500]), text


def loss_of(way: nn.Module | Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the loss of one training pass: the mean square of the distance to the sample."""
    sample, timestep, text = inputs
    return (way(sample, timestep, text, num_images=IMAGES) - sample).square().mean()


def count(way: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> Pass:
    """Count one forward and one backward pass. Gradients of before are dropped, and those of the pass kept."""
    way.zero_grad(set_to_none=True)
    with Counts() as forward:
        loss = loss_of(way, inputs)
    alive = forward.live
    with Counts() as backward:
        loss.backward()
    return Pass(forward, backward, alive, loss.item())


def ways(network: VideoUNet) -> dict[str, tuple[nn.Module, tuple[Tensor, Tensor, Tensor]]]:
    """Return the ways to compute a pass over the same weights, each with the inputs in the layout that it wants."""
    sample, timestep, text = middle_inputs()
    contiguous = (sample.contiguous(), timestep, text)
    return {
        "ours": (network, (sample, timestep, text)),
        "released, SDPA": (ReleasedNetwork(network), contiguous),
        "released, bmm": (ReleasedNetwork(network, fused_attention=False), contiguous),
    }


def time_once(way: nn.Module | Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, float]:
    """Return the seconds of this thread's CPU time that a forward and a backward pass take."""
    begin = time.thread_time()
    loss = loss_of(way, inputs)
    middle = time.thread_time()
    loss.backward()
    return middle - begin, time.thread_time() - middle


def report_counts(passes: dict[str, Pass]) -> None:
    """Print the counts of each way, and ours as a share of the others'."""
    rows: dict[str, Callable[[Pass], float]] = {
        "operations, forward": lambda p: p.forward.operations.total(),
        "operations, backward": lambda p: p.backward.operations.total(),
        "launches on a GPU": lambda p: p.forward.launches + p.backward.launches,
        "allocated, MiB": lambda p: (p.forward.allocated + p.backward.allocated) / 2**20,
        "alive after forward, MiB": lambda p: p.alive / 2**20,
        "layout copies, forward": lambda p: p.forward.copies.total(),
        "layout copies, backward": lambda p: p.backward.copies.total(),
        "loss": lambda p: p.loss,
    }
    print(f"{'':26}" + "".join(f"{name:>16}" for name in passes) + "   ours / each")
    for label, value in rows.items():
        values = [value(p) for p in passes.values()]
        shares = " ".join(f"{values[0] / v:.2f}" if v else "-" for v in values[1:])
        print(f"{label:26}" + "".join(f"{v:16.6g}" for v in values) + f"   {shares}", flush=True)


def main() -> None:
    """Count each way once, then time them in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each way; 0: only count")
    parser.add_argument("--compile", action="store_true", help="time torch.compile of the released way too (minutes)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = middle_network()
    compared = ways(network)
    report_counts({name: count(way, inputs) for name, (way, inputs) in compared.items()})

    runs: dict[str, Any] = {name: way for name, (way, _) in compared.items()}
    layouts = {name: inputs for name, (_, inputs) in compared.items()}
    if given.compile:
        runs["released, compiled"] = torch.compile(ReleasedNetwork(network))
        layouts["released, compiled"] = layouts["released, SDPA"]
        time_once(runs["released, compiled"], layouts["released, compiled"])

    # Turns, so that what else the machine does falls on all alike; the first round warms up.
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(given.rounds + 1 if given.rounds else 0):
        for name, way in runs.items():
            network.zero_grad(set_to_none=True)
            taken = time_once(way, layouts[name])
            if turn:
                times[name].append(taken)
    for name, rounds in times.items():
        if rounds:
            forward, backward = (statistics.median(part) for part in zip(*rounds, strict=True))
            ratios = [sum(t) / sum(ours) for t, ours in zip(rounds, times["ours"], strict=True)]
            print(
                f"{name:20} forward {forward:.2f} s, backward {backward:.2f} s of CPU time; "
                f"ours is {statistics.median(ratios):.2f}x as fast ({min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
