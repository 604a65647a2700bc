"""The rows of a step are those that training reads, bit for bit, on whatever ranks it runs."""

import pytest
import torch

from lavie.data.feed.loader import build_loader
from lavie.data.feed.share import Share
from lavie.data.shards.index import load_index
from lavie.errors import ConfigError
from lavie.pages.data.batch import RunBatches
from tests.cascades import stage_config
from tests.data.datasets import write_media

DATA = {"num_frames": 4, "num_images": 2, "height": 24, "width": 32, "fps": 8, "num_workers": 0}
BUCKETS = [{"num_frames": 4, "height": 16, "width": width, "weight": 1} for width in (16, 32)]


@pytest.fixture
def wide(tmp_path, monkeypatch):
    """A folder `wide` of square and wide videos and images, in the present folder."""
    monkeypatch.chdir(tmp_path)
    sizes = {f"{kind}{number}": (16 + 16 * (number % 2), 16) for kind in "vi" for number in range(4)}
    return write_media(tmp_path / "wide", **sizes)


def run_of(demo, stage="base", **changes):
    data = {**DATA, "train": [str(demo / "train")], **changes}
    values = {"train_batch_size": 2, "gradient_accumulation_steps": 2, "max_train_steps": 9, "seed": 3}
    return stage_config(stage, data=data, **values)


def trained(config, step, world_size):
    """The rows of a step as the ranks of a run get them: (position, keys, captions, tensors)."""
    rows = []
    for rank in range(world_size):
        share = Share(
            seed=config.seed,
            train_batch_size=config.train_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            rank=rank,
            world_size=world_size,
        )
        batches = build_loader(
            config.data, config.data.train, share, start_step=step - 1, degradation=config.low_resolution
        )
        for _ in range(config.gradient_accumulation_steps):
            batch = next(batches)
            tensors = [batch[name] for name in ("pixels", "low_res") if name in batch]
            rows += zip(batch["positions"].tolist(), batch["keys"], batch["captions"], *tensors, strict=True)
    return rows


@pytest.mark.parametrize(
    "changes, world_size",
    (
        ({}, 1),
        ({}, 2),
        ({"cuts": 2}, 1),
        ({"train": ["wide"], "buckets": BUCKETS}, 2),
        ({"images_alone": True}, 1),
    ),
)
def test_rows_are_those_of_training_to_the_bit(demo, wide, changes, world_size):
    config = run_of(demo, **changes)
    batches = RunBatches(config, world_size)
    assert batches.rows == 4 * world_size
    for step in (1, 3, 9):
        expected = trained(config, step, world_size)
        shown = [batches.row(step, place) for place in range(batches.rows)]
        assert [(row["position"], row["keys"], row["captions"]) for row in shown] == [row[:3] for row in expected]
        assert all(torch.equal(mine["pixels"], theirs[3]) for mine, theirs in zip(shown, expected, strict=True))


def test_the_low_resolution_is_that_of_training(demo):
    config = run_of(demo, "vsr", num_images=0, crop="patch")
    batches = RunBatches(config)
    expected = trained(config, 2, 1)
    shown = [batches.row(2, place) for place in range(batches.rows)]
    for mine, theirs in zip(shown, expected, strict=True):
        assert torch.equal(mine["pixels"], theirs[3]) and torch.equal(mine["low_res"], theirs[4])


def test_a_sample_that_is_marked_is_left_out_as_in_training(demo, tmp_path):
    file = tmp_path / "exclude.txt"
    file.touch()
    config = run_of(demo, exclude=str(file))
    batches = RunBatches(config)
    culprit = batches.row(1, 0)["keys"][0]
    file.write_text(f"{culprit}\n")
    batches.renew()
    row = batches.row(1, 0)
    assert row["keys"][0] != culprit and [dropped["key"] for dropped in row["dropped"]] == [culprit]
    [expected, *_] = trained(config, 1, 1)
    assert row["keys"] == expected[1] and torch.equal(row["pixels"], expected[3])


@pytest.mark.parametrize("step", (0, 10))
def test_a_step_that_the_run_has_not_is_named(demo, step):
    with pytest.raises(ConfigError, match=rf"--step {step}: wanted a step from 1 to max_train_steps, 9"):
        RunBatches(run_of(demo)).row(step, 0)


def test_a_sample_is_cut_to_the_size_of_its_bucket(demo, wide):
    batches = RunBatches(run_of(demo, train=["wide"], buckets=BUCKETS))
    videos = load_index(["wide"]).videos
    assert [batches.size_of(sample).width for sample in videos] == [sample.width for sample in videos]
