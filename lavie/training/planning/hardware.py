"""What the planner knows of GPUs, networks and hosts: the one table of its constants, each with its source.

Data sheets are makers' numbers. What is marked "assumed" is ours, and nothing here was measured on a GPU by this
project: a plan is an estimate.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from ...errors import ConfigError
from ..cost import PEAK_FLOPS

Row = TypeVar("Row")


class Gpu(NamedTuple):
    """One product."""

    words: str
    """Its words in PEAK_FLOPS, where the rate of its matrix products is."""
    gigabytes: float
    """Memory, as it is sold (10^9 bytes)."""
    bandwidth: float
    """The bandwidth of that memory, bytes/s."""
    link: float
    """Bytes/s that a GPU sends to others of its node: NVLink where the board has it, else PCIe."""
    half: str = "bf16"
    """The 16-bit format that it computes in."""

    @property
    def peak(self) -> float:
        """FLOP/s of dense products in 16 bits."""
        return PEAK_FLOPS[self.words]


GPUS = {
    # Data sheets of HGX B200, H200, H100 (SXM, NVL, PCIe), H800, H20. NVLink 5: 900 GB/s each way, 4: 450; PCIe 5: 64.
    "b200": Gpu("B200", 180, 7.7e12, 900e9),
    "h200": Gpu("H200", 141, 4.8e12, 450e9),
    "h100": Gpu("H100", 80, 3.35e12, 450e9),
    "h100-nvl": Gpu("H100 NVL", 94, 3.9e12, 64e9),
    "h100-pcie": Gpu("H100 PCIe", 80, 2.0e12, 64e9),
    "h800": Gpu("H800", 80, 3.35e12, 200e9),
    "h20": Gpu("H20", 96, 4.0e12, 450e9),
    # Data sheets of A100 (SXM, 80 and 40 GB), A40, A10, L40S, L4. NVLink 3: 300 GB/s each way; PCIe 4: 32.
    "a100": Gpu("A100", 80, 2.039e12, 300e9),
    "a100-40": Gpu("A100", 40, 1.555e12, 300e9),
    "a40": Gpu("A40", 48, 696e9, 32e9),
    "a10": Gpu("A10", 24, 600e9, 32e9),
    "l40s": Gpu("L40S", 48, 864e9, 32e9),
    "l4": Gpu("L4", 24, 300e9, 32e9),
    # White papers of RTX Blackwell, AD102 and GA102.
    "5090": Gpu("RTX 5090", 32, 1.792e12, 64e9),
    "4090": Gpu("RTX 4090", 24, 1.008e12, 32e9),
    "3090": Gpu("RTX 3090", 24, 936e9, 32e9),
    # Data sheet of V100 (SXM2, 32 GB): NVLink 2, 150 GB/s each way.
    "v100": Gpu("V100", 32, 900e9, 150e9, "fp16"),
}
"""By the names that --gpu takes."""


class Network(NamedTuple):
    """What connects the nodes."""

    rate: float
    """Bytes/s each way, of an adapter."""
    per_gpu: bool
    """Whether every GPU has an adapter of its own; else a node has one."""


NETWORKS = {
    "ib400": Network(50e9, True),
    "ib200": Network(25e9, True),
    "eth400": Network(50e9, False),
    "eth100": Network(12.5e9, False),
    "eth25": Network(3.125e9, False),
    "eth10": Network(1.25e9, False),
}
"""By the names that --network takes: InfiniBand with an adapter a GPU, Ethernet with one a node, and Gb/s."""

PRODUCT_SHARE = 0.61
"""The share of the peak that matrix products and convolutions reach. Assumed: 600 of the H100's 989 TFLOP/s; large
products alone reach 790 on an H200 in PyTorch (published)."""
ATTENTION_SHARE = 0.35
"""The share of the peak that fused attention reaches, forward and backward, for heads of 40 to 160. Assumed."""
BANDWIDTH_SHARE = 0.85
"""The share of a memory's bandwidth that pointwise operations reach. Assumed."""
WIRE_SHARE = 0.8
"""The share of a link's or network's rate that collectives reach. Assumed."""
NODE_LATENCY, NETWORK_LATENCY = 1e-6, 4e-6
"""Seconds that a message takes from one rank of a ring to the next, within a node and between nodes. Assumed."""
OVERLAP = 0.7
"""Share of the computation behind which communication hides. Assumed."""
DISK = 2e9
"""Bytes/s that a node writes to a shared disk. Assumed."""
HOST_COPY = 10e9
"""Bytes/s of the copy of a rank's state from its GPU to the host. Assumed, of pinned memory over PCIe 4."""


class Host(NamedTuple):
    """What launching costs a core of the host, in microseconds."""

    launch: float
    """An operation of the forward or backward pass, with autograd's part."""
    parameter: tuple[float, float, float, float]
    """What the engine does for each parameter that trains, in a micro-batch, by ZeRO stage 0 to 3."""


HOST = Host(launch=27.0, parameter=(5.0, 20.0, 20.0, 80.0))
"""A core of a server. Assumed: half of what a busy core of a small machine took in three runs of
`lavie plan configs/base.yaml --measure-host` on 2026-11-30, of 51 to 55 us for a launch, and for a parameter up to 14
without ZeRO, 24 to 60 under ZeRO-2 and 127 to 190 under ZeRO-3. That command takes the numbers of its own machine."""


def gpu_named(name: str) -> Gpu:
    """Return a GPU of GPUS. Raises ConfigError if there is none of this name."""
    return _named("--gpu", name, GPUS)


def network_named(name: str) -> Network:
    """Return a network of NETWORKS. Raises ConfigError if there is none of this name."""
    return _named("--network", name, NETWORKS)


def _named(flag: str, name: str, table: Mapping[str, Row]) -> Row:
    """Return a row of a table by its name in any case, or raise ConfigError with the names that there are."""
    if name.lower() not in table:
        raise ConfigError(f"{flag} {name}: wanted one of {', '.join(table)}")
    return table[name.lower()]
