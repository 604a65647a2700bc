"""The memory that a dry run computes, against the peak that PyTorch's allocator counts in runs on a CPU."""

import json

import pytest

from lavie.config.load import load_config
from lavie.testing import run_distributed
from lavie.training.deepspeed import resolve_json
from lavie.training.memory import Memory, memory_of
from lavie.training.ways_out import changed_config
from tests.training.runs import MODEL, make_config, make_vsr_config

WIDE = MODEL | {"block_out_channels": (64, 128), "cross_attention": (True, True)}
"""A network of 4.4 million parameters."""
STATES = {"model": WIDE, "train_batch_size": 1, "data": {"height": 8, "width": 8, "num_images": 0, "num_frames": 2}}
"""A run whose memory is its weights."""
ACTIVATIONS = {"data": {"height": 128, "width": 128, "num_images": 1}, "train_batch_size": 4}
"""A run whose memory is its activations."""


def settings_file(folder, stage: int, **zero):
    path = folder / "zero.json"
    values = {"stage": stage, "reduce_bucket_size": 200_000, "stage3_param_persistence_threshold": 0} | zero
    path.write_text(json.dumps({"zero_optimization": values, "zero_allow_untested_optimizer": True}))
    return path


def allocated(config, settings) -> int:
    """Train a run under PyTorch's profiler; the most bytes that the allocator of the CPU had given out at once.

    Nothing is saved: the whole network that a save writes lies on the CPU, which is here the device too.
    """
    from torch.profiler import ProfilerActivity, profile

    from lavie.training import trainer as module
    from lavie.training.trainer import Trainer

    module.Saver.save = lambda *_args: None

    recorder = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with recorder as profiler, Trainer(config, settings) as trainer:
        trainer.fit()
    nodes, most = list(profiler.profiler.kineto_results.experimental_event_tree()), 0
    while nodes:
        node = nodes.pop()
        nodes += node.children
        most = max(most, getattr(node.extra_fields, "total_allocated", 0))
    return most


BF16 = STATES | {"mixed_precision": "bf16"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranks, stage, changes, zero",
    (
        (1, 0, ACTIVATIONS, {}),
        (2, 1, BF16 | {"gradient_accumulation_steps": 2}, {}),
        # Nearly the whole network is gathered on each rank, which holds half of it between the passes.
        (2, 3, BF16, {}),
        (1, 2, ACTIVATIONS | {"gradient_checkpointing": True}, {}),
        # The network as it is built takes more than the run.
        (1, 2, BF16 | {"trainable": "temporal", "use_ema": False, "train_batch_size": 1}, {}),
    ),
    ids=("zero0-activations", "zero1-two-ranks", "zero3-two-ranks", "zero2-checkpointing", "zero2-building"),
)
def test_peak_equals_the_allocators_within_a_tenth(rendered, tmp_path, ranks, stage, changes, zero):
    config = make_config(rendered, tmp_path / "run", max_train_steps=3 if stage == 3 else 2, **changes)
    path = settings_file(tmp_path, stage, **zero)
    measured = max(run_distributed(allocated, ranks, config, path))
    computed = memory_of(config, resolve_json(path, config, ranks), ranks, fused=False)
    assert computed.peak == pytest.approx(measured, rel=0.1), computed


@pytest.mark.slow
def test_peak_of_super_resolution(rendered, tmp_path):
    """A network of temporal convolutions, of which only these train."""
    config = make_vsr_config(rendered, tmp_path / "run", max_train_steps=2, trainable="temporal")
    path = settings_file(tmp_path, 2)
    (measured,) = run_distributed(allocated, 1, config, path)
    computed = memory_of(config, resolve_json(path, config, 1), 1, fused=False)
    assert computed.peak == pytest.approx(measured, rel=0.1), computed


def test_the_peak_is_the_worst_moment():
    memory = Memory({"weights": 2.0}, {"backward": {"activations": 5.0}, "step": {"a": 3.0, "b": 3.0}})
    assert (memory.states, memory.worst, memory.peak) == (2, "step", 8)


@pytest.mark.slow
def test_full_size_by_hand():
    """Bytes a parameter on one GPU at ZeRO-2: weights 2, optimizer 12, average 4; gradients at the step 4."""
    config = load_config("configs/base.yaml", ["train_batch_size=1"])
    memory = memory_of(config, resolve_json("configs/zero2.json", config, 1), 1)
    total = 909_124_100
    assert memory.states - memory.held["encoders"] == total * 18
    assert memory.moments["step"] == {"float32 gradients": total * 4.0, "copies of gradients, or the optimizer": 0}
    assert memory.moments["backward"]["gradients"] == total * 4
    assert memory.moments["backward"]["gradient buffers"] == 2 * 2 * 200_000_000
    assert memory.held["encoders"] == pytest.approx(83_653_863 * 2 + 123_060_480 * 4, rel=1e-3)


@pytest.mark.slow
def test_with_a_cache_the_encoders_are_on_the_device_for_validation_only():
    config = load_config("configs/base.yaml", ["train_batch_size=1"])
    cached = changed_config(config, [("", {"data.cache": "FOLDER", "data.cuts": 1}, {})])
    settings = resolve_json("configs/zero2.json", config, 1)
    online, from_cache = memory_of(config, settings, 1), memory_of(cached, settings, 1)
    encoders = online.held["encoders"]
    assert from_cache.states == online.states - encoders
    assert from_cache.moments["validation"]["encoders"] == encoders > 0
    assert "encoding" in online.moments and "encoding" not in from_cache.moments
