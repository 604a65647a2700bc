"""Runs on several sizes: the same on any number of ranks and after a resume, in every stage; what they refuse."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lavie.config.train import TrainConfig
from lavie.data.feed.loader import build_loader
from lavie.data.feed.share import Share
from lavie.data.prepare.synthetic import demo_set
from lavie.testing import LOSS_RTOL, run_distributed
from lavie.training.cost import forward_flops
from lavie.training.record import WARM_UP
from tests.training.objectives import build_objective
from tests.training.runs import (
    deepspeed_json,
    fails,
    losses,
    make_config,
    make_vsr_config,
    records,
    train,
    weight_hashes,
)

STEPS = 6


@pytest.fixture(scope="module")
def data(rendered, tmp_path_factory) -> dict[str, Any]:
    """Clips of two lengths, in about equal numbers, for two sizes; and images for both."""
    short = tmp_path_factory.mktemp("short")
    demo_set(short, clips=20, images=0, size=24, frames=4)
    buckets = [{"num_frames": 3, "height": 16, "width": 16}, {"num_frames": 5, "height": 24, "width": 24}]
    return {"train": [str(rendered / "train"), str(short / "train")], "buckets": buckets}


@pytest.mark.slow
def test_ranks_and_resuming_do_not_change_a_run(rendered, data, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    common = {"max_train_steps": STEPS, "checkpointing_steps": 3, "data": data | {"num_workers": 1}}
    one = make_config(rendered, tmp_path / "one", train_batch_size=4, **common)
    two = make_config(rendered, tmp_path / "two", train_batch_size=2, **common)
    run_distributed(train, 1, one, settings)
    run_distributed(train, 2, two, settings)
    whole, hashes = records(two), weight_hashes(two, STEPS)
    assert losses(one) == pytest.approx(losses(two), rel=LOSS_RTOL)
    assert [r["bucket"] for r in records(one)] == [r["bucket"] for r in whole]
    assert {r["bucket"] for r in whole[:3]} == {r["bucket"] for r in whole[3:]} == {"3x16x16", "5x24x24"}
    flops = {size.name: 3 * forward_flops(two, size) for size in two.data.buckets}
    assert flops["5x24x24"] > 2 * flops["3x16x16"]
    seen: set[str] = set()
    for record in records(one):
        if record["step"] <= WARM_UP or record["bucket"] not in seen:
            assert record["samples_per_s"] is record["tflops"] is record["mfu"] is None
            seen.add(record["bucket"])
            continue
        assert record["tflops"] * 1e12 / record["samples_per_s"] == pytest.approx(flops[record["bucket"]])
    middle = two.model_copy(update={"resume_from_checkpoint": f"{two.output_dir}/checkpoint-3"})
    run_distributed(train, 2, middle, settings)
    assert losses(middle) == [r["loss"] for r in whole]
    assert weight_hashes(middle, STEPS) == hashes


def build_nothing(config: TrainConfig, settings: Path) -> str:
    """The message that a run ends with before it has a network. Runs inside a rank."""
    from lavie.training import trainer

    trainer.build_network = None
    return fails(config, settings)


def test_a_plan_that_cannot_be_is_refused_before_there_is_a_network(rendered, data, tmp_path):
    late = [
        {"path": str(rendered / "train"), "name": name, "weight": w} for name, w in (("a", 1), ("b", [[9, 0], [10, 1]]))
    ]
    config = make_config(rendered, tmp_path / "run", max_train_steps=5, data={"train": late})
    [message] = run_distributed(build_nothing, 1, config, deepspeed_json(tmp_path, 2))
    assert "dataset b is taken at none of the 5 steps" in message


@pytest.mark.parametrize("stage", ("interpolation", "vsr"))
def test_the_later_stages_take_every_size(rendered, data, tmp_path, stage):
    values = data | {"num_images": 0, "num_frames": 5}
    if stage == "vsr":
        values |= {"crop": "patch", "moving_images": 0.5}
        config = make_vsr_config(rendered, tmp_path)
        config = TrainConfig.model_validate(config.model_dump() | {"data": config.data.model_dump() | values})
    else:
        model = make_config(rendered, tmp_path).model.model_dump() | {"in_channels": 6, "relative_bias": False}
        config = make_config(rendered, tmp_path, stage=stage, model=model, keyframe_interval=2, data=values)
    torch.manual_seed(0)
    objective = build_objective(config)
    from lavie.training.trainer import build_network

    network, seen = build_network(config), set()
    batches = build_loader(
        config.data,
        config.data.train,
        Share(seed=0, train_batch_size=2),
        degradation=config.low_resolution,
    )
    for batch, _ in zip(batches, range(6), strict=False):
        inputs = objective.training_inputs(batch)
        assert inputs.low_res.shape[2:] == inputs.sample.shape[2:]
        with torch.no_grad():
            assert objective.loss(network, inputs).total.isfinite()
        seen.add(tuple(batch["pixels"].shape[1:4]))
    assert seen == {(3, 16, 16), (5, 24, 24)}
