"""Accuracies count what was asked for, beside chance."""

import numpy as np
import pytest

from lavie.data.prepare.pack import pack
from lavie.data.prepare.synthetic import demo_set, render_clip
from lavie.errors import ConfigError
from lavie.evaluation.judge import Verdict, judge_clip
from lavie.evaluation.rendered import rendered_captions, require_rendered
from lavie.evaluation.score_base import _panel, accuracies
from lavie.inference.video_io import write_mp4
from lavie.seeds import numpy_generator
from tests.cascades import stage_config

TRUTHS = [Verdict("red", "left"), Verdict("blue", "up"), Verdict("green", None), Verdict("cyan", "down")]
SEEN = [Verdict("red", "left"), Verdict("blue", "down"), Verdict("green", "up"), Verdict(None, None)]


def test_counts():
    result = accuracies(SEEN, TRUTHS)
    assert result["colour"] == {"right": 3, "count": 4, "accuracy": 0.75, "chance": 1 / 6}
    assert result["direction"] == {"right": 1, "count": 3, "accuracy": 1 / 3, "chance": 1 / 4}
    assert result["both"] == {"right": 1, "count": 3, "accuracy": 1 / 3, "chance": 1 / 24}
    assert accuracies([], [])["colour"]["accuracy"] is None


def test_refuses_lists_of_different_length():
    with pytest.raises(ValueError, match="shorter"):
        accuracies(SEEN, TRUTHS[:2])


# --- which runs it judges


def config(train=(), validation=(), prompts=()):
    """The config of a run of the base stage on some shards."""
    tiny = stage_config("base", validation_prompts=list(prompts))
    data = tiny.data.model_copy(update={"train": tuple(train), "validation": tuple(validation)})
    return tiny.model_copy(update={"data": data})


def test_the_rendered_set_is_known(tmp_path):
    demo_set(tmp_path, clips=20, images=18, size=24, frames=4)
    require_rendered(config([str(tmp_path / "train")]))
    require_rendered(config(validation=[str(tmp_path / "validation")]))
    require_rendered(config(["/gone"], prompts=["a red circle moving right"]))
    require_rendered(config())  # an exported folder tells nothing of its data
    assert {"a red circle moving right", "a cyan square turning", "a blue triangle"} <= rendered_captions()


def test_captions_of_other_data_are_refused(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("one", "two"):
        clip = render_clip("red", "circle", "moving left", rng=numpy_generator(0, name, 0), frames=4, size=64)
        write_mp4(tmp_path / "clips" / f"{name}.mp4", clip, 8)
        (tmp_path / "clips" / f"{name}.txt").write_text("a fox in the snow")
    pack(tmp_path / "clips", tmp_path / "shards", num_frames=4, frame_stride=1)
    with pytest.raises(ConfigError, match=r"2 of 2 captions are not of the rendered set, as 'a fox in the snow'"):
        require_rendered(config([str(tmp_path / "shards")]))
    with pytest.raises(ConfigError, match=r"validation_prompts: 1 of 1 captions .* 'a fox'"):
        require_rendered(config(["/gone"], prompts=["a fox"]))


# --- what its picture says


def test_a_wrong_clip_says_what_the_judge_sees_beside_a_true_one():
    clip = render_clip("red", "circle", "moving left", rng=numpy_generator(0, "clip", 0), frames=6, size=32)
    verdict = judge_clip(clip)
    assert verdict == Verdict("red", "left")
    right = _panel(0, ("a red circle moving left", Verdict("red", "left")), clip, verdict)
    assert (right.caption, right.wrong) == ("a red circle moving left", False)
    wrong = _panel(0, ("a blue circle moving right", Verdict("blue", "right")), clip, verdict)
    assert (wrong.caption, wrong.wrong) == ("a blue circle moving right: the judge sees red, left", True)
    assert judge_clip(wrong.truth) == Verdict("blue", "right")
    nothing = _panel(0, ("a red square", Verdict("red", None)), np.zeros((1, 32, 32, 3), np.uint8), Verdict(None, None))
    assert nothing.caption == "a red square: the judge sees no colour"
    assert nothing.truth is None
