"""How long a step takes on a cluster: from operations, bytes, launches and collectives, with assumptions that are told.

1. The GPU works through the operations of a micro-batch, each at the rate that limits it (`Counted.seconds`).
2. The host launches them beside that, and does what DeepSpeed's hooks ask for each parameter.
3. Communication hides behind OVERLAP of the GPU's work; what is longer comes on top.
4. A micro-batch takes the longer of host and GPU with its communication; a step has gradient_accumulation_steps of
   them, then the collectives of the step and the update, whose bytes count.

A ring of all ranks crosses from node to node once, so a collective is as fast as the slower of the links within a node
and all adapters of a node together; and it waits once for each rank of the ring.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...config.train import TrainConfig
from ...models.meta_encoders import clip_parameters
from ..deepspeed import zero_stage
from ..memory import encoding_pass, gathering_of, parameter_sizes, training_pass
from ..precision import training_dtype
from . import hardware
from .hardware import Gpu, Host, Network
from .traffic import Collectives, collectives

UPDATE_BYTES = 59
"""Bytes that the update of a parameter that trains moves, with clipping and the average: counted at 54 GB for 909
million parameters."""
HPZ, MICS = "zero_hpz_partition_size", "mics_shard_size"
"""DeepSpeed's keys for weights that every node holds a copy of, and for states that every node holds a copy of."""


class Cluster(NamedTuple):
    """Where a run is planned to run."""

    gpu: Gpu
    network: Network
    nodes: int
    gpus_per_node: int
    host: Host = hardware.HOST

    @property
    def ranks(self) -> int:
        """The number of GPUs."""
        return self.nodes * self.gpus_per_node

    def seconds(self, sent: Collectives, ranks: int | None = None) -> float:
        """Return how long collectives take.

        Args:
            sent: the collectives.
            ranks: how many ranks take part: all of them, or as many as a node has.
        """
        ranks = ranks or self.ranks
        if ranks == 1:
            return 0.0
        within = ranks <= self.gpus_per_node
        adapters = self.network.rate * (self.gpus_per_node if self.network.per_gpu else 1)
        rate = self.gpu.link if within else min(self.gpu.link, adapters)
        crossings = 0 if within else self.nodes - 1
        ring = crossings * hardware.NETWORK_LATENCY + (ranks - 1 - crossings) * hardware.NODE_LATENCY
        return sent.wire(ranks) / (rate * hardware.WIRE_SHARE) + sent.hops(ranks) / (ranks - 1) * ring


@dataclass(frozen=True)
class Forecast:
    """The time of a step, in seconds."""

    network: float
    """The network's passes of a micro-batch on the GPU."""
    encoders: float
    """What encodes pixels and text of a micro-batch, on the GPU."""
    host: float
    """What the host does for a micro-batch."""
    sent: float
    """The collectives of a micro-batch."""
    sent_once: float
    """The collectives of a step besides."""
    update: float
    """The update of the weights and of their average."""
    micro_batches: int
    """How many micro-batches a step has."""
    clips: int
    """How many clips a micro-batch has."""
    flops: float
    """The FLOPs of a micro-batch, forward and backward, without what is computed again."""

    @property
    def gpu(self) -> float:
        """What the GPU computes for a micro-batch."""
        return self.network + self.encoders

    @property
    def exposed(self) -> float:
        """What does not hide of the collectives of a micro-batch."""
        return max(0.0, self.sent - hardware.OVERLAP * self.gpu)

    @property
    def micro_batch(self) -> float:
        """A micro-batch."""
        return max(self.host, self.gpu + self.exposed)

    @property
    def step(self) -> float:
        """A step, without the wait for data, validation and checkpoints."""
        return self.micro_batches * self.micro_batch + self.sent_once + self.update

    @property
    def bound(self) -> str:
        """What limits the step, in words."""
        waits = self.micro_batches * self.exposed + self.sent_once
        if self.host > self.gpu + self.exposed:
            return "host-bound"
        return "network-bound" if waits > self.step / 4 else "compute-bound"

    @property
    def clips_per_second(self) -> float:
        """The rate of one GPU."""
        return self.micro_batches * self.clips / self.step

    @property
    def tflops(self) -> float:
        """The model's TFLOP/s of one GPU."""
        return self.micro_batches * self.flops / self.step / 1e12


def forecast(config: TrainConfig, settings: dict[str, Any], cluster: Cluster) -> Forecast:
    """Return the time of a step of a run.

    Args:
        config: the run.
        settings: DeepSpeed's, complete; zero_hpz_partition_size and mics_shard_size count with the GPUs of a node.
        cluster: where it runs.
    """
    gpu, stage = cluster.gpu, zero_stage(settings)
    rates = (
        gpu.peak * hardware.PRODUCT_SHARE,
        gpu.peak * hardware.ATTENTION_SHARE,
        gpu.bandwidth * hardware.BANDWIDTH_SHARE,
    )
    sizes = config.data.sizes
    passes = [training_pass(config, size) for size in sizes]
    network = sum(counted.seconds(*rates) for counted in passes) / len(passes)
    launches = sum(counted.launches for counted in passes) / len(passes)
    encoders, of_encoders = _encoders(config, rates)

    # What DeepSpeed does for each parameter comes with every micro-batch.
    trained = [size for size, trains in parameter_sizes(config) if trains]
    host = (launches + of_encoders) * cluster.host.launch + len(trained) * cluster.host.parameter[stage]
    sent, once = _sent(config, settings, cluster, trained)
    share = sum(trained) / (cluster.ranks if stage else 1)
    again = 4 / 3 if config.gradient_checkpointing else 1
    return Forecast(
        network=network,
        encoders=encoders,
        host=host / 1e6,
        sent=sent,
        sent_once=once,
        update=share * UPDATE_BYTES / rates[2],
        micro_batches=config.gradient_accumulation_steps,
        clips=config.train_batch_size,
        flops=sum(counted.flops for counted in passes) / len(passes) / again,
    )


def _encoders(config: TrainConfig, rates: tuple[float, float, float]) -> tuple[float, float]:
    """Return the seconds on the GPU and the launches of encoding a micro-batch; none of what lies in a cache."""
    if config.data.cache:
        return 0.0, 0.0
    seconds, launches, sizes = 0.0, 0.0, config.data.sizes
    if config.autoencoder.type == "diffusers":
        for size in sizes:
            counted, times = encoding_pass(config, size)
            seconds += counted.seconds(*rates) * times / len(sizes)
            launches += counted.launches * times / len(sizes)
    if config.text_encoder.type == "clip":
        # In float32, whose products run at a quarter of the rate of 16 bits at most.
        captions = config.train_batch_size * (1 + config.data.num_images)
        parameters = clip_parameters(config.pretrained_model_name_or_path, config.model.cross_attention_dim)
        seconds += 4 * 2 * parameters * captions * config.text_encoder.max_length / rates[0]
    return seconds, launches


def _sent(config: TrainConfig, settings: dict[str, Any], cluster: Cluster, trained: list[int]) -> tuple[float, float]:
    """Return the seconds of the collectives of a micro-batch, and of a step besides.

    1. With zero_hpz_partition_size the gathers of the backward pass stay within a node.
    2. With mics_shard_size all of stage 3 does, and the gradients' sums over the nodes come on top.
    """
    zero, ranks, width = settings.get("zero_optimization", {}), cluster.ranks, training_dtype(config).itemsize
    if ranks == 1:
        return 0.0, 0.0
    gathered = gathering_of(config, settings) if zero_stage(settings) == 3 else None
    all_sent = collectives(settings, trained, width, ranks, gathered)
    within = cluster.gpus_per_node if zero.get(MICS, -1) > 0 and cluster.nodes > 1 else ranks
    micro, once = _times(all_sent, cluster, within)
    if within < ranks:
        shares = Collectives("gradients", "all_reduce", sum(trained) * width / within, 1, per_step=True)
        across = cluster._replace(gpus_per_node=1)
        once += across.seconds(shares, cluster.nodes)
    elif zero.get(HPZ, 1) > 1 and cluster.nodes > 1 and gathered is not None:
        later = gathered.gathers[gathered.forward :]
        payload = float(sum(map(sum, later)) * width)
        of_backward = Collectives("gathers", "all_gather", payload, len(later), per_step=False)
        micro += cluster.seconds(of_backward, cluster.gpus_per_node) - cluster.seconds(of_backward)
    return micro, once


def _times(all_sent: Iterable[Collectives], cluster: Cluster, ranks: int) -> tuple[float, float]:
    """Return the seconds of the collectives of a micro-batch, and of those of a step."""
    times = {True: 0.0, False: 0.0}
    for sent in all_sent:
        times[sent.per_step] += cluster.seconds(sent, ranks)
    return times[False], times[True]
