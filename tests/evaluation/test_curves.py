"""The loss plot reads what a run writes, resumed and running ones too."""

import json

import numpy as np
import pytest
from PIL import Image

from lavie.errors import DataError
from lavie.evaluation.curves import _read, _smoothed, plot_losses


def metrics(path, steps=300, images=True):
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1):
        video = (0.05 + np.exp(-step / 60)) * rng.lognormal(0, 0.4)
        image = 0.8 * video * rng.lognormal(0, 0.3) if images else 0.0
        lr = 1e-4 * min(1, step / 30)
        record = {
            "step": step,
            "loss": video + image,
            "loss_video": video,
            "loss_image": image,
            "lr": lr,
            "grad_norm": 1.0,
        }
        lines.append(json.dumps(record))
        if step % 50 == 0:
            lines.append(json.dumps({"step": step, "validation_loss": 2 * (0.06 + np.exp(-step / 60))}))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_plots(tmp_path):
    plot_losses(metrics(tmp_path / "metrics.jsonl"), tmp_path / "loss.png")
    picture = np.asarray(Image.open(tmp_path / "loss.png").convert("RGB"))
    assert picture.shape[1] >= 1000
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("steps", (1, 2))
def test_plots_the_first_steps(tmp_path, steps):
    plot_losses(metrics(tmp_path / "metrics.jsonl", steps, images=False), tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_the_later_line_of_a_step_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 1, "loss": 1}\n{"step": 1, "lr": 0.1}\n')
    assert _read(path) == {1: {"step": 1, "loss": 1, "lr": 0.1}, 2: {"step": 2, "loss": 2}}


def test_a_line_in_the_making_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "lo')
    assert list(_read(path)) == [1]


def test_smoothing_keeps_a_line_straight_and_a_level():
    assert np.allclose(_smoothed(np.full(50, 3.0)), 3)
    assert np.allclose(_smoothed(np.arange(200.0))[10:-10], np.arange(200.0)[10:-10])


@pytest.mark.parametrize(
    "text, message",
    (('{"step": 1}\n', "no line has a loss"), ("nonsense\n", "line 1: wanted a JSON object"), ("[1]\n", "line 1")),
)
def test_refusals_name_the_file(tmp_path, text, message):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        plot_losses(path, tmp_path / "loss.png")
    with pytest.raises(DataError, match="cannot be read"):
        plot_losses(tmp_path / "absent.jsonl", tmp_path / "loss.png")
