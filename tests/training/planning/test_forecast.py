"""The time of a step: sums by hand, and what limits it in words."""

import dataclasses

import pytest

from lavie.errors import ConfigError
from lavie.training.planning import hardware
from lavie.training.planning.forecast import Cluster, Forecast
from lavie.training.planning.hardware import GPUS, NETWORKS, gpu_named, network_named
from lavie.training.planning.traffic import Collectives

TIMES = {"network": 0.080, "encoders": 0.020, "host": 0.050, "sent": 0.030, "sent_once": 0.010, "update": 0.005}
STEP = Forecast(**TIMES, micro_batches=2, clips=4, flops=1e13)
"""A step whose communication hides behind the GPU's work."""


def test_a_step_by_hand():
    assert STEP.exposed == 0
    assert STEP.step == pytest.approx(2 * 0.100 + 0.015)
    assert STEP.clips_per_second == pytest.approx(8 / 0.215)
    assert STEP.tflops == pytest.approx(20 / 0.215)
    assert STEP.bound == "compute-bound"


@pytest.mark.parametrize(
    "changes, step, bound",
    (
        ({"host": 0.300}, 2 * 0.300 + 0.015, "host-bound"),
        ({"sent": 0.170}, 2 * (0.100 + 0.100) + 0.015, "network-bound"),
        ({"sent_once": 0.100}, 2 * 0.100 + 0.105, "network-bound"),
    ),
)
def test_what_limits_a_step_is_said_in_words(changes, step, bound):
    changed = dataclasses.replace(STEP, **changes)
    assert (changed.step, changed.bound) == (pytest.approx(step), bound)


def test_collectives_take_their_bytes_and_a_latency_for_each_rank():
    """Within a node the links count; between nodes the adapters of a node together, and the ring crosses each once."""
    gather = Collectives("gathers", "all_gather", 64e9, 3, per_step=False)
    h100 = GPUS["h100"]
    node = Cluster(h100, NETWORKS["eth400"], 1, 8)
    bytes_sent = 64e9 * 7 / 8
    assert node.seconds(gather) == pytest.approx(
        bytes_sent / (450e9 * hardware.WIRE_SHARE) + 3 * 7 * hardware.NODE_LATENCY
    )
    nodes = Cluster(h100, NETWORKS["eth400"], 4, 8)
    ring = 3 * hardware.NETWORK_LATENCY + 28 * hardware.NODE_LATENCY
    assert nodes.seconds(gather) == pytest.approx(64e9 * 31 / 32 / (50e9 * hardware.WIRE_SHARE) + 3 * ring)
    adapters = Cluster(h100, NETWORKS["ib400"], 4, 8)
    assert adapters.seconds(gather) == pytest.approx(64e9 * 31 / 32 / (400e9 * hardware.WIRE_SHARE) + 3 * ring)
    assert nodes.seconds(gather, 8) == pytest.approx(node.seconds(gather))
    assert Cluster(h100, NETWORKS["eth400"], 1, 1).seconds(gather) == 0


def test_names_that_are_unknown_list_the_known_ones():
    with pytest.raises(ConfigError, match=r"--gpu tpu: wanted one of b200, h200, h100"):
        gpu_named("tpu")
    with pytest.raises(ConfigError, match=r"--network carrier: wanted one of ib400"):
        network_named("carrier")
    assert all(gpu.peak > 0 for gpu in GPUS.values())
    assert gpu_named("H200") is GPUS["h200"]
