"""The plan of a run: the counts are those of the run itself, and what cannot be is refused."""

from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lavie.cli.data import app
from lavie.data.order.buckets import load_buckets
from lavie.data.order.datasets import load_datasets
from lavie.data.order.plan import check_global_batch, make_plan
from lavie.data.order.plan_report import notices
from lavie.data.order.sample_order import image_order, video_order
from lavie.data.shards.index import load_index
from lavie.errors import ConfigError
from tests.data.order.plans import bucketed, config

SMOKE = Path(__file__).resolve().parents[3] / "configs/smoke/base.yaml"


def test_counts_are_those_of_the_run(demo):
    data = config(demo)
    plan = make_plan(data, seed=4, steps=50, global_batch=6)
    pools = load_datasets(data, data.train)
    assert plan.steps == list(range(51))
    for kind, order, per_step in (
        ("videos", video_order(pools, 4, 6), 6),
        ("images", image_order(pools, 4, 12), 12),
    ):
        taken = Counter(order.names[order.mixture.at(p)[0]] for p in range(50 * per_step))
        for part in (p for p in plan.exposures if p.kind == kind):
            samples = getattr(pools[["first", "second"].index(part.name)].index, kind)
            assert part.taken[0] == 0 and part.taken[-1] == taken[part.name]
            assert part.samples == len(samples) and len(part.shards) == 1
            assert part.epochs[-1] == taken[part.name] / len(samples)
            assert part.sample_bytes == pytest.approx(sum(s.size for s in samples) / len(samples))
    assert plan.hours == pytest.approx(50 * 6 * 4 / 8 / 3600)
    assert plan.step_bytes == pytest.approx(sum(p.taken[-1] * p.sample_bytes for p in plan.exposures) / 50)
    first, second = (p.shares for p in plan.exposures if p.kind == "videos")
    assert (first[0], second[0]) == (1, 0) and first[-1] == pytest.approx(1 / 6)


def test_moving_images_and_frame_strides(demo):
    data = config(demo, moving_images=0.25, crop="patch", num_images=0, fps=None, frame_stride=2)
    plan = make_plan(data, seed=0, steps=100, global_batch=8)
    by_kind = {
        k: sum(p.taken[-1] for p in plan.exposures if p.kind == k) for k in ("videos", "moving images", "images")
    }
    assert by_kind == {"videos": 600, "moving images": 200, "images": 0}
    fps = load_index((str(demo / "train"),)).videos[0].fps
    assert plan.hours == pytest.approx(600 * 4 * 2 / fps / 3600)


def test_what_the_buckets_hold_and_take_is_that_of_the_run(demo, tmp_path):
    data = bucketed(demo, tmp_path)
    plan = make_plan(data, seed=4, steps=50, global_batch=6)
    buckets = load_buckets(data, data.train, 4)
    turns = [buckets.steps.at(step)[0] for step in range(50)]
    taken = Counter()
    for step, number in enumerate(turns):
        order = video_order(buckets.all[number].datasets, 4, 6, buckets.all[number].step_count)
        for position in range(6 * step, 6 * step + 6):
            taken[buckets.all[number].name, order.names[order.mixture.at(position)[0]]] += 1
    videos = [part for part in plan.exposures if part.kind == "videos"]
    assert {(part.bucket, part.name): part.taken[-1] for part in videos} == taken
    assert [(size.name, size.taken[-1]) for size in plan.bucket_steps] == [
        ("4x16x16", turns.count(0)),
        ("8x16x24", turns.count(1)),
    ]
    square, wide, *images = plan.by_bucket
    assert (square.bucket, wide.bucket, *(part.bucket for part in images)) == ("4x16x16", "8x16x24", "16x16", "16x24")
    assert images[0].samples == images[1].samples == sum(p.samples for p in plan.by_dataset if p.kind == "images")
    assert notices(plan)[0] == "no image suits frames of 16x24: all images are cut to fit them"
    assert (square.samples, wide.samples, wide.enlarged, square.enlarged) == (24 + 24, 6, 2, 0)
    assert square.cut == 0 and wide.cut == pytest.approx(1 - 20 * 30 / (20 * 40))
    assert wide.epochs[-1] == 6 * turns.count(1) / 6
    assert plan.hours == pytest.approx(6 * (4 * turns.count(0) + 8 * turns.count(1)) / 8 / 3600)
    for at in range(len(plan.steps)):
        assert sum(part.shares[at] for part in videos) == pytest.approx(1)
        assert [part.shares[at] for part in (square, wide)] == pytest.approx(
            [size.shares[at] for size in plan.bucket_steps]
        )


def test_buckets_leave_the_datasets_their_weights(demo, tmp_path):
    """Also where they change, and where the datasets differ in what they give to which bucket."""
    data = bucketed(demo, tmp_path, num_images=0)
    with_buckets = make_plan(data, seed=0, steps=300, global_batch=8).by_dataset
    without = make_plan(data.model_copy(update={"buckets": ()}), seed=0, steps=300, global_batch=8).by_dataset
    for one, other in zip(with_buckets, without, strict=True):
        assert one.shares == pytest.approx(other.shares, abs=1e-9)
        assert one.taken[-1] == pytest.approx(other.taken[-1], abs=16)


def test_impossible_plans_are_refused(demo):
    idle = config(demo).model_dump()["train"]
    idle[1]["weight"] = [[0, 0], [50, 0], [51, 1]]
    with pytest.raises(ConfigError, match="dataset second is taken at none of the 50 steps: its weight is 0"):
        make_plan(config(demo, train=idle), seed=0, steps=50, global_batch=6)
    assert make_plan(config(demo, train=idle), seed=0, steps=60, global_batch=6)
    idle[1]["weight"] = 0.001  # whose turn comes later than the run's end
    assert make_plan(config(demo, train=idle), seed=0, steps=1, global_batch=1).by_dataset[1].taken == [0, 0]
    with pytest.raises(ConfigError, match=r"first: \d+ videos are taken of 24: .* epochs, above --max-epochs 2\."):
        make_plan(config(demo), seed=0, steps=50, global_batch=6, max_epochs=2)
    with pytest.raises(ConfigError, match=r"of 100 clips does not divide among 8 ranks with train_batch_size 3.*24"):
        check_global_batch(100, 3, 8)
    assert check_global_batch(96, 3, 8) == 4


@pytest.mark.slow
def test_the_command(demo, tmp_path):
    out = tmp_path / "plan.png"
    train = f"data.train=[{{path: {demo}/train, name: web}}, {{path: {demo}/validation, name: vimeo, weight: 3}}]"
    call = ["plan", str(SMOKE), train, "data.validation=null", "max_train_steps=100", "--world-size", "2"]
    result = CliRunner().invoke(app, [*call, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    assert out.is_file()
    rows = {tuple(line.split()[:2]): line for line in result.stdout.splitlines()}
    assert {("web", "videos"), ("vimeo", "videos"), ("web", "images"), ("vimeo", "images")} <= rows.keys()
    assert "25.0%" in rows["web", "videos"] and "75.0%" in rows["vimeo", "videos"]
    assert "every node reads from all 2" in result.stdout
    assert "long caption: 0 of " in result.stdout and "more than 5 words" in result.stdout
    refused = CliRunner().invoke(app, [*call, "--out", str(out)])
    assert isinstance(refused.exception, ConfigError) and "--overwrite" in str(refused.exception)


def test_the_command_reaches_a_global_batch_by_accumulation(demo):
    call = ["plan", str(SMOKE), f"data.train={demo}/train", "data.validation=null", "train_batch_size=3"]
    call += ["max_train_steps=2", "--world-size", "2", "--global-batch"]
    done = CliRunner().invoke(app, [*call, "12"], catch_exceptions=False)
    assert done.output.splitlines()[-1] == "global batch: 3 x 2 x 2 = 12 clips"
    refused = CliRunner().invoke(app, [*call, "7"])
    assert isinstance(refused.exception, ConfigError)
    assert "7 clips does not divide among 2 ranks with train_batch_size 3: wanted a multiple of 6" in str(
        refused.exception
    )


@pytest.mark.parametrize("steps", (60, 199, 201, 777, 100_003))
def test_curves_have_points_all_over_the_run(demo, steps):
    """Every step of a short run; of a long one 200 steps, none more than half a step off an even spacing."""
    points = make_plan(config(demo), seed=0, steps=steps, global_batch=1).steps
    if steps <= 200:
        assert points == list(range(steps + 1))
    else:
        assert len(points) == 201 and all(abs(point - steps * i / 200) <= 0.5 for i, point in enumerate(points))
