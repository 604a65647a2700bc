"""The loss plot shows what runs write, resumed and running ones too, and what compares with what."""

import json

import numpy as np
import pytest
from PIL import Image

from lavie.errors import ConfigError, DataError
from lavie.evaluation.curves import draw_losses, plot_losses
from lavie.evaluation.run_records import read_by_step


def run(folder, steps=300, weight=0.25, images=True, validation_parts=True, **config):
    """Write a run of joint training, or of clips alone."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1):
        video = (0.05 + np.exp(-step / 60)) * rng.lognormal(0, 0.4)
        image = 0.8 * video * rng.lognormal(0, 0.3) if images else 0.0
        record = {"loss": video + weight * image, "loss_video": video, "loss_image": image}
        lines.append({"step": step, **record, "lr": 1e-4 * min(1, step / 30), "grad_norm": 1.0})
        if step % 50 == 0:
            video, image = 0.06 + np.exp(-step / 60), 0.5
            record = {"validation_loss": video + weight * image if images and validation_parts else video}
            if images and validation_parts:
                record |= {"validation_loss_video": video, "validation_loss_image": image}
            lines.append({"step": step, **record, "validation_loss_t125": 0.1, "validation_loss_t625": 0.2})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {"stage": "base", "image_loss_weight": weight, "use_ema": True} | config
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


def values(folder, key):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def legend(axes):
    return [text.get_text().rpartition(" = ")[0] for text in axes.get_legend().get_texts()]


def drawn(axes):
    """The heights of all lines that the panel holds, each as a tuple."""
    return {tuple(line.get_ydata()) for line in axes.lines}


def test_a_run_is_drawn_in_panels_that_do_not_mix(tmp_path):
    folder = run(tmp_path / "joint")
    figure = draw_losses([folder])
    training, validation, rate = figure.axes
    assert legend(training) == legend(validation) == ["video + 0.25 image", "video", "image"]
    for axes, loss in ((training, "loss"), (validation, "validation_loss")):
        for key in (loss, f"{loss}_video", f"{loss}_image"):
            assert tuple(values(folder, key)) in drawn(axes)
    assert drawn(training).isdisjoint(drawn(validation))
    assert "averaged weights, mean of timesteps 125, 625" in validation.get_title(loc="left")
    assert drawn(rate) == {tuple(values(folder, "lr"))}
    assert figure.get_suptitle() == "joint, step 300"
    assert tuple(figure.get_size_inches() * figure.dpi) == pytest.approx((1200, 900))


def test_clips_alone_are_one_curve(tmp_path):
    training, validation, _ = draw_losses([run(tmp_path / "clips", images=False)]).axes
    assert legend(training) == legend(validation) == ["video"]
    # A validation whose parts are not recorded, of a run of both, may be of either kind.
    training, validation, _ = draw_losses([run(tmp_path / "old", validation_parts=False)]).axes
    assert (len(legend(training)), legend(validation)) == (3, ["total"])


def test_a_logarithmic_axis_can_be_read(tmp_path):
    figure = draw_losses([run(tmp_path / "run")])
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    low, high = figure.axes[0].get_ylim()
    shown = [float(tick.get_text()) for tick in axis.get_ticklabels() if low <= tick.get_position()[1] <= high]
    assert figure.axes[0].get_yscale() == "log" and len(shown) >= 4
    assert {0.1, 0.2, 0.5, 1} <= set(shown)


def test_runs_lie_over_each_other(tmp_path):
    long, short = run(tmp_path / "long"), run(tmp_path / "short", steps=100)
    training, validation, rate = draw_losses([long, short]).axes
    for axes, key in ((training, "loss"), (validation, "validation_loss"), (rate, "lr")):
        assert {tuple(values(folder, key)) for folder in (long, short)} <= drawn(axes)
    assert legend(training) == ["long: video + 0.25 image", "short: video + 0.25 image"]
    colours = [[handle.get_color() for handle in axes.get_legend().legend_handles] for axes in (training, validation)]
    assert colours[0] == colours[1] and len(set(colours[0])) == 2


def test_what_does_not_add_up_the_same_is_compared_by_its_clips(tmp_path):
    quarter, half = run(tmp_path / "quarter"), run(tmp_path / "half", weight=0.5)
    clips = run(tmp_path / "clips", images=False, stage="vsr")
    training, validation, _ = draw_losses([quarter, half, clips]).axes
    assert (
        legend(training) == legend(validation) == ["quarter (base): video", "half (base): video", "clips (vsr): video"]
    )
    for axes, loss in ((training, "loss"), (validation, "validation_loss")):
        assert {tuple(values(folder, f"{loss}_video")) for folder in (quarter, half)} <= drawn(axes)
        assert tuple(values(quarter, loss)) not in drawn(axes)
        assert tuple(values(clips, loss)) in drawn(axes)


def test_names_of_runs_are_drawn_as_they_are(tmp_path, recwarn):
    """A dollar sign begins no mathematics, an underscore hides no curve, and no glyph is missing."""
    folders = [run(tmp_path / name, 3, images=False) for name in ("$a$", "_b", "\N{CJK UNIFIED IDEOGRAPH-72D0}")]
    figure = draw_losses(folders)
    figure.draw_without_rendering()
    assert legend(figure.axes[0]) == ["\\$a\\$: video", " _b: video", "\\u72d0: video"]
    assert not [warning for warning in recwarn if "lyph" in str(warning.message)]


@pytest.mark.parametrize("steps", (1, 2))
def test_plots_the_first_steps(tmp_path, steps):
    plot_losses([run(tmp_path / "run", steps, images=False)], tmp_path / "new" / "loss.png")
    assert Image.open(tmp_path / "new" / "loss.png").size == (1200, 660)


def test_a_line_in_the_making_is_left_out_and_damaged_ones_are_told(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "lo')
    assert list(read_by_step(path)) == [1] and not caplog.text
    path.write_text('{"step": 1, "loss": 3}\n\n[1]\n{"step": 2, "loss": "x"}\n')
    assert plot_losses([tmp_path], tmp_path / "loss.png") is None
    assert f"{path}: 2 damaged lines left out" in caplog.text


@pytest.mark.parametrize(
    "text, message",
    (('{"step": 1}\n', "no line has a loss"), ("nonsense\n", "no line has a loss")),
)
def test_refusals_name_the_run(tmp_path, text, message):
    good, bad = run(tmp_path / "good", 2), tmp_path / "bad"
    bad.mkdir()
    for match in ("cannot be read", message):
        with pytest.raises(DataError, match=f"{bad}/metrics.jsonl.*{match}"):
            draw_losses([good, bad])
        (bad / "metrics.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=f"given twice: {good}, {good}"):
        draw_losses([good, good])
