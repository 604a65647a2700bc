"""The collectives of a step, against those that real ranks call."""

import json

import pytest

from lavie.testing import run_distributed
from lavie.training.deepspeed import resolve_json
from lavie.training.memory import gathering_of, parameter_sizes
from lavie.training.planning.traffic import Collectives, collectives
from lavie.training.precision import training_dtype
from tests.training.planning.counted import sent
from tests.training.runs import MODEL, make_config

WIDE = MODEL | {"block_out_channels": (64, 128), "cross_attention": (True, True)}
"""A network of 4.4 million parameters."""
CLIPS = {"height": 8, "width": 8, "num_images": 0, "num_frames": 2}
CALLS = {"all_reduce": "all_reduce", "all_gather_into_tensor": "all_gather", "reduce_scatter_tensor": "reduce_scatter"}
STEPS = 3
"""ZeRO-3 knows the order of the modules in the third pass."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranks, stage, zero, changes",
    (
        (2, 1, {}, {}),
        (2, 2, {}, {"gradient_accumulation_steps": 2}),
        (2, 3, {"stage3_max_reuse_distance": 10**6, "stage3_param_persistence_threshold": 200}, {}),
        (2, 3, {"stage3_max_reuse_distance": 10**6, "stage3_prefetch_bucket_size": 10**5}, {}),
        (4, 1, {}, {"mixed_precision": "bf16"}),
        (4, 2, {}, {}),
        (4, 3, {"stage3_prefetch_bucket_size": 10**5}, {"gradient_checkpointing": True}),
    ),
)
def test_bytes_are_those_that_ranks_send(rendered, tmp_path, ranks, stage, zero, changes):
    config = make_config(
        rendered, tmp_path / "run", max_train_steps=STEPS, model=WIDE, train_batch_size=1, data=CLIPS, **changes
    )
    path = tmp_path / "zero.json"
    section = {"stage": stage, "reduce_bucket_size": 200_000} | zero
    path.write_text(json.dumps({"zero_optimization": section, "zero_allow_untested_optimizer": True}))
    counted = run_distributed(sent, ranks, config, path)
    assert all(of_rank == counted[0] for of_rank in counted)
    payload, calls = counted[0]
    assert set(payload) <= set(CALLS), "a collective of a kind that is not predicted"

    settings = resolve_json(path, config, ranks)
    trained = [size for size, trains in parameter_sizes(config) if trains]
    gathered = gathering_of(config, settings) if stage == 3 else None
    predicted: dict[str, float] = {}
    for one in collectives(settings, trained, training_dtype(config).itemsize, ranks, gathered):
        times = 1 if one.per_step else config.gradient_accumulation_steps
        predicted[one.kind] = predicted.get(one.kind, 0) + times * one.payload
    measured = {CALLS[name]: size for name, size in payload.items()}
    assert measured == pytest.approx(predicted, rel=0.02), calls


def test_what_a_ring_sends_and_waits_for():
    gather = Collectives("weights", "all_gather", 800, 2, per_step=True)
    assert (gather.wire(4), gather.hops(4)) == (600, 6)
    reduce = Collectives("gradients", "all_reduce", 800, 2, per_step=True)
    assert (reduce.wire(4), reduce.hops(4)) == (1200, 12)


def test_one_rank_sends_nothing(tmp_path):
    assert collectives({"zero_optimization": {"stage": 3}}, [4, 5], 2, 1) == []
