"""The collectives of a training step under each ZeRO stage: what is sent, how often, and with what on each rank.

`payload` is the whole that a collective works on, on each rank: what an all-gather gives, what a reduce-scatter takes,
what an all-reduce sums. Single numbers (losses, norms, flags) are not counted.

    stage 0   an all-reduce of all gradients at each step
    stage 1   an all-reduce of all gradients at each step, and an all-gather of the weights after it
    stage 2   an all-reduce of the gradients at each micro-batch, as DeepSpeed does by default
              (use_multi_rank_bucket_allreduce), and an all-gather of the weights after the step
    stage 3   a reduce-scatter of the gradients, and the gathers of `zero3`, at each micro-batch
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..deepspeed import zero_stage
from .zero3 import Gathering

Kind = Literal["all_reduce", "all_gather", "reduce_scatter"]
BUCKET = 5 * 10**8
"""DeepSpeed's own reduce_bucket_size, in elements."""
ALIGNMENT = 2
"""Elements to whose multiple stages 1 and 2 fill up each rank's part of the weights (nccl_start_alignment_factor)."""
UNSHARDED_BUCKET = 5 * 10**8
"""Elements of a bucket of gradients under stage 0 (allreduce_bucket_size)."""


@dataclass(frozen=True)
class Collectives:
    """Collectives of one kind."""

    what: str
    """What they carry: gradients, weights, or gathers."""
    kind: Kind
    payload: float
    """Bytes in all."""
    count: int
    per_step: bool
    """Whether they come once a step; else with every micro-batch."""

    def wire(self, ranks: int) -> float:
        """Return the bytes that each rank sends where the ranks stand in a ring."""
        return self.payload * (ranks - 1) / ranks * (2 if self.kind == "all_reduce" else 1)

    def hops(self, ranks: int) -> int:
        """Return how many messages follow one another in a ring."""
        return self.count * (ranks - 1) * (2 if self.kind == "all_reduce" else 1)


def collectives(
    settings: dict[str, Any], trained: Sequence[int], width: int, ranks: int, gathered: Gathering | None = None
) -> list[Collectives]:
    """Return the collectives of a step; none on one rank.

    Args:
        settings: DeepSpeed's, complete.
        trained: the elements of each parameter that trains, in the order of the network.
        width: bytes of an element of the weights.
        ranks: the number of ranks.
        gathered: what stage 3 gathers in each micro-batch.
    """
    stage = zero_stage(settings)
    if ranks == 1:
        return []
    sent = {"fp32": 4, "fp16": 2, "bf16": 2}.get(settings.get("communication_data_type", ""), width)
    bucket = int(settings.get("zero_optimization", {}).get("reduce_bucket_size", BUCKET))
    total = sum(trained)
    if stage == 0:
        count = _buckets(trained, UNSHARDED_BUCKET)
        return [Collectives("gradients", "all_reduce", total * width, count, per_step=True)]
    if stage < 3:
        whole = _padded([total], ranks * ALIGNMENT)
        return [
            Collectives("gradients", "all_reduce", total * sent, _buckets(trained, bucket), per_step=stage == 1),
            Collectives("weights", "all_gather", whole * width, 1, per_step=True),
        ]
    assert gathered is not None
    gathers = sum(_padded(gather, ranks) for gather in gathered.gathers)
    made = [
        Collectives(
            "gradients", "reduce_scatter", _padded(trained, ranks) * sent, _buckets(trained, bucket), per_step=False
        ),
        Collectives("gathers", "all_gather", gathers * width, len(gathered.gathers), per_step=False),
    ]
    if gathered.persistent:
        persistent, count = _padded(gathered.persistent, ranks), len(gathered.persistent)
        made.append(Collectives("weights", "all_gather", persistent * width, count, per_step=True))
    return made


def _padded(sizes: Sequence[int], ranks: int) -> int:
    """Return the elements of parameters of which each is filled up to equal parts."""
    return sum(-(-size // ranks) * ranks for size in sizes)


def _buckets(sizes: Sequence[int], bucket: int) -> int:
    """Return how many buckets gradients fill that come from the network's end: a bucket is sent before it overflows."""
    count, filled = 0, 0
    for size in reversed(sizes):
        if filled and filled + size > bucket:
            count, filled = count + 1, 0
        filled += size
    return count + bool(filled)
