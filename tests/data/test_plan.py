"""The plan of a run: the counts are those of the run itself, and what cannot be is refused."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lavie.cli_data import app
from lavie.config_data import DataConfig
from lavie.data.index import load_index
from lavie.data.plan import check_global_batch, make_plan
from lavie.data.plan_report import draw_plan
from lavie.data.pools import image_order, load_pools, video_order
from lavie.errors import ConfigError

SMOKE = Path(__file__).resolve().parents[2] / "configs/smoke/base.yaml"


def config(demo, **changes) -> DataConfig:
    train = [
        {"path": str(demo / "train"), "name": "first", "weight": [[0, 1.0], [40, 0.2]]},
        {"path": str(demo / "validation"), "name": "second", "weight": [[0, 0.0], [40, 1.0]]},
    ]
    values = {"train": train, "num_frames": 4, "num_images": 2, "height": 16, "width": 16, "fps": 8}
    return DataConfig(**{**values, **changes})


def test_counts_are_those_of_the_run(demo):
    data = config(demo)
    plan = make_plan(data, seed=4, steps=50, global_batch=6)
    pools = load_pools(data, data.train)
    assert plan.steps == list(range(51))
    for kind, order, per_step in (
        ("videos", video_order(pools, 4, 6), 6),
        ("images", image_order(pools, 4, 12), 12),
    ):
        taken = Counter(order.names[order.mixture.at(p)[0]] for p in range(50 * per_step))
        for part in (p for p in plan.parts if p.kind == kind):
            samples = getattr(pools[["first", "second"].index(part.name)].index, kind)
            assert part.taken[0] == 0 and part.taken[-1] == taken[part.name]
            assert part.samples == len(samples) and len(part.shards) == 1
            assert part.epochs[-1] == taken[part.name] / len(samples)
            assert part.sample_bytes == pytest.approx(sum(s.size for s in samples) / len(samples))
    assert plan.hours == pytest.approx(50 * 6 * 4 / 8 / 3600)
    assert plan.step_bytes == pytest.approx(sum(p.taken[-1] * p.sample_bytes for p in plan.parts) / 50)
    first, second = (p.shares for p in plan.parts if p.kind == "videos")
    assert (first[0], second[0]) == (1, 0) and first[-1] == pytest.approx(1 / 6)


def test_moving_images_and_frame_strides(demo):
    data = config(demo, moving_images=0.25, crop="patch", num_images=0, fps=None, frame_stride=2)
    plan = make_plan(data, seed=0, steps=100, global_batch=8)
    by_kind = {k: sum(p.taken[-1] for p in plan.parts if p.kind == k) for k in ("videos", "moving images", "images")}
    assert by_kind == {"videos": 600, "moving images": 200, "images": 0}
    fps = load_index((str(demo / "train"),)).videos[0].fps
    assert plan.hours == pytest.approx(600 * 4 * 2 / fps / 3600)


def test_impossible_plans_are_refused(demo):
    idle = config(demo).model_dump()["train"]
    idle[1]["weight"] = [[0, 0], [50, 0], [51, 1]]
    with pytest.raises(ConfigError, match="dataset second is taken at none of the 50 steps: its weight is 0"):
        make_plan(config(demo, train=idle), seed=0, steps=50, global_batch=6)
    assert make_plan(config(demo, train=idle), seed=0, steps=60, global_batch=6)
    with pytest.raises(ConfigError, match=r"first: \d+ videos are taken of 24: .* epochs, above --max-epochs 2\."):
        make_plan(config(demo), seed=0, steps=50, global_batch=6, max_epochs=2)
    with pytest.raises(ConfigError, match="of 100 clips does not divide among 8 ranks with train_batch_size 3.*24"):
        check_global_batch(100, 3, 8)
    assert check_global_batch(96, 3, 8) == 4


def test_the_plot_shows_every_dataset_in_its_colour(demo, tmp_path):
    draw_plan(make_plan(config(demo), seed=0, steps=50, global_batch=6), tmp_path / "plan.png")
    with Image.open(tmp_path / "plan.png") as image:
        colours = dict((colour, count) for count, colour in image.convert("RGB").getcolors(1 << 24))
    assert image.size == (1320, 840)
    # Opacity 0.85 on white.
    for colour in ((31, 59, 115), (224, 138, 30)):
        assert colours[colour] > 500
        assert any(
            count > 5000 and all(abs(a - (0.85 * b + 0.15 * 255)) < 2 for a, b in zip(c, colour, strict=True))
            for c, count in colours.items()
        )


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
    refused = CliRunner().invoke(app, [*call, "--out", str(out), "--global-batch", "7"])
    assert isinstance(refused.exception, ConfigError)
