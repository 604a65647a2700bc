"""The report of a plan says what may not be wanted, and its plot shows every dataset and bucket."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lavie.config.data import BucketConfig, DataConfig
from lavie.data.order.plan import make_plan
from lavie.data.order.plan_report import BUCKET_COLOURS, draw_plan, notices, plan_text
from lavie.errors import DataError
from tests.data.order.plans import bucketed, config
from tests.data.order.sized import write_sized

BUCKETS = [{"num_frames": 4, "height": 16, "width": 16}, {"num_frames": 8, "height": 8, "width": 24}]


def test_what_may_not_be_wanted_is_noticed(demo, tmp_path):
    data = bucketed(demo, tmp_path, num_images=0)
    words = plan_text(make_plan(data, seed=0, steps=1000, global_batch=8))
    assert "bucket 8x16x24 holds 6 videos, fewer than the clips of a step" in words
    assert "left out: nothing" in words
    paths = data.model_copy(update={"train": (str(tmp_path), str(demo / "train"))})
    few = make_plan(paths, seed=0, steps=1, global_batch=6)
    assert "bucket 8x16x24 is never taken in so few steps: its 6 videos are not shown" in notices(few)
    idle = data.model_copy(update={"buckets": (*data.buckets, BucketConfig(num_frames=2, height=4, width=40))})
    assert "bucket 2x4x40 is never taken: no video belongs there" in notices(
        make_plan(idle, seed=0, steps=100, global_batch=6)
    )
    short = data.model_copy(
        update={"num_frames": 9, "buckets": (), "drop_short": True, "train": (str(demo / "train"),)}
    )
    with pytest.raises(DataError, match="no videos among"):
        make_plan(short, seed=0, steps=10, global_batch=6)
    short = short.model_copy(update={"train": (str(tmp_path), str(demo / "train")), "min_size": 15, "num_frames": 8})
    assert "left out: " in plan_text(make_plan(short, seed=0, steps=10, global_batch=6))


@pytest.mark.slow
def test_the_plot_shows_every_dataset_in_its_colour(demo, tmp_path):
    draw_plan(make_plan(config(demo), seed=0, steps=50, global_batch=6), tmp_path / "plan.png")
    with Image.open(tmp_path / "plan.png") as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24)}
    assert image.size == (1320, 840)
    # Opacity 0.85 on white.
    for colour in ((31, 59, 115), (224, 138, 30)):
        assert colours[colour] > 500
        assert any(
            count > 5000 and all(abs(a - (0.85 * b + 0.15 * 255)) < 2 for a, b in zip(c, colour, strict=True))
            for c, count in colours.items()
        )


@pytest.mark.slow
def test_the_plot_shows_every_bucket(demo, tmp_path):
    draw_plan(make_plan(bucketed(demo, tmp_path / "wide"), seed=0, steps=50, global_batch=6), tmp_path / "plan.png")
    with Image.open(tmp_path / "plan.png") as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24)}
    assert image.size == (1320, 1560)
    shown = [tuple(round(0.85 * int(c[i : i + 2], 16) + 0.15 * 255) for i in (1, 3, 5)) for c in BUCKET_COLOURS[:2]]
    for colour in shown:
        assert any(
            n > 5000 and max(abs(a - b) for a, b in zip(c, colour, strict=True)) <= 1 for c, n in colours.items()
        )
    assert colours[42, 157, 143] > 5000  # cut away
    assert colours[224, 138, 30] > 1000  # enlarged, and the second dataset


def inside(axes) -> None:
    """Assert that what is drawn lies within the axes: every bar, every area and every curve, to its end."""
    (left, right), (bottom, top) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    points = [axes.transData.inverted().transform(patch.get_window_extent().get_points()) for patch in axes.patches]
    points += [line.get_xydata() for line in axes.lines]
    points += [path.vertices for area in axes.collections for path in area.get_paths()]
    assert points
    for x, y in np.concatenate(points):
        assert left - 1e-9 <= x <= right + 1e-9 and bottom - 1e-9 <= y <= top + 1e-9, axes.get_title()


@pytest.mark.parametrize("several", (True, False))
def test_nothing_is_drawn_past_the_axes(demo, tmp_path, monkeypatch, several):
    """Half of the wide clips is cut away, and nothing of the square ones."""
    data = bucketed(demo, tmp_path / "wide", buckets=BUCKETS) if several else config(demo)
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    draw_plan(make_plan(data, seed=0, steps=50, global_batch=6), tmp_path / "plan.png")
    (figure,) = figures
    figure.canvas.draw()
    assert len(figure.axes) == (8 if several else 4)
    for axes in figure.axes:
        inside(axes)
    if several:
        lengths = [bar.get_width() for bar in figure.axes[-1].patches]
        assert min(lengths) == 0 and max(lengths) > 0.2


def test_silly_plans_are_noticed_with_the_key_to_change(tmp_path):
    write_sized(tmp_path, v1=(16, 16, 8), v2=(16, 16, 8), v3=(16, 16, 8))
    data = DataConfig(train=(str(tmp_path),), num_frames=4, num_images=0, height=16, width=16, fps=8)
    found = "\n".join(notices(make_plan(data, seed=0, steps=3000, global_batch=4)))
    # 3000 steps x 4 clips / 3 videos = 4000 epochs; 750 steps are 1000 of them.
    assert "data.train: each of its 3 videos comes 4,000 times" in found
    assert "max_train_steps=750 would be 1000 epochs" in found
    assert "all 3,000 steps show 3 videos: add clips to data.train" in found
    assert "a step takes 4 clips, more than the 3 videos there are: lower train_batch_size" in found
    write_sized(tmp_path / "more", **{f"v{i}": (16, 16, 8) for i in range(10)})
    data = data.model_copy(update={"train": (str(tmp_path / "more"),)})
    assert notices(make_plan(data, seed=0, steps=1000, global_batch=10)) == []
