"""Drift is measured against the first segment: each measure answers to its own fault, by calculation."""

import numpy as np
import pytest

from lavie.data.prepare.synthetic import render_clip
from lavie.errors import ConfigError
from lavie.evaluation.drift import asked, mean_drift, measure_drift
from lavie.evaluation.judge import Verdict
from lavie.inference.segments import cut_segments
from lavie.seeds import numpy_generator

SEGMENTS = cut_segments(20, 8, 2)  # 0 .. 7, 6 .. 13, 12 .. 19


def steady(step=2.0):
    """A pattern that moves evenly: frame i is a ramp, shifted by i * step grey levels within 0 .. 255."""
    rows = np.random.default_rng(0).integers(0, 100, (16, 16, 1)).astype(np.float64)
    frames = np.stack([rows + i * step for i in range(20)])
    return np.repeat(frames, 3, -1)


def measured(frames, latents=None):
    latents = np.random.default_rng(1).normal(size=(2, 20, 4, 4)) if latents is None else latents
    return measure_drift(frames.round().astype(np.uint8), latents, SEGMENTS)


def test_a_steady_clip_does_not_drift():
    latents = np.tile(np.random.default_rng(1).normal(size=(2, 1, 4, 4)), (1, 20, 1, 1))
    for number, segment in enumerate(measured(steady(), latents)):
        assert segment.latent_mean_shift == pytest.approx(0, abs=1e-12)
        assert segment.latent_std_ratio == pytest.approx(1)
        assert segment.laplacian_ratio == pytest.approx(1)
        assert segment.motion_ratio == pytest.approx(1)
        assert segment.joint_jump == (pytest.approx(1) if number else None)
    assert [(s.begin, s.stop) for s in measured(steady())] == [(0, 8), (6, 14), (12, 20)]


def test_saturation_shows_in_the_latents():
    latents = np.tile(np.random.default_rng(1).normal(size=(2, 1, 4, 4)), (1, 20, 1, 1))
    mean, std = latents[:, 0].mean(axis=(1, 2)), latents[:, 0].std(axis=(1, 2))
    latents[:, 12:] *= 1.5
    last = measured(steady(), latents)[2]
    assert last.latent_std_ratio == pytest.approx(1.5)
    assert last.latent_mean_shift == pytest.approx(np.sqrt(((0.5 * mean / std) ** 2).mean()))


def test_blur_shows_in_the_laplacian():
    frames = steady(0)
    frames[12:] = frames[12:].mean(axis=(1, 2), keepdims=True) + (frames[12:] - frames[12:].mean()) * 0.5
    assert measured(frames)[2].laplacian_ratio == pytest.approx(0.25, rel=0.05)


def test_rest_shows_in_the_motion_and_a_jump_at_its_joint():
    frames = steady()
    frames[14:] = frames[13] + 10  # the third segment adds frames from 14 on: one jump, then rest
    second, third = measured(frames)[1:]
    assert second.motion_ratio == pytest.approx(1)
    assert second.joint_jump == pytest.approx(1)
    assert third.joint_jump == pytest.approx(5)
    assert third.motion_ratio == pytest.approx((2 + 10) / 7 / 2)


def test_a_clip_at_rest_has_no_ratios():
    still = measured(np.full((20, 16, 16, 3), 100.0), np.zeros((2, 20, 4, 4)))
    assert {(s.latent_std_ratio, s.laplacian_ratio, s.motion_ratio) for s in still} == {(None, None, None)}
    assert [s.joint_jump for s in still] == [None, None, None]


def test_the_judge_names_each_segment():
    rng = numpy_generator(0, "drift")
    right = render_clip("red", "circle", "moving right", rng=rng, frames=8, size=32)
    up = render_clip("red", "circle", "moving up", rng=rng, frames=6, size=32)
    frames = np.concatenate([right, up])
    drift = measure_drift(frames, np.zeros((1, 14, 2, 2)), cut_segments(14, 8, 2), judged=True)
    assert (drift[0].colour, drift[0].direction) == ("red", "right")
    assert drift[1].colour == "red"


def test_means_and_shares_over_clips():
    clips = [measured(steady()), measured(steady(4))]
    clips = [
        [c.__class__(**vars(c) | {"colour": "red", "direction": d}) for c in clip]
        for clip, d in zip(clips, ("up", "left"), strict=True)
    ]
    truths = [[Verdict("red", "up")] * 3, [Verdict("blue", None)] * 3]
    rows = mean_drift(clips, truths)
    assert [row["segment"] for row in rows] == [1, 2, 3]
    assert rows[1]["motion_ratio"] == pytest.approx(1)
    assert rows[0]["joint_jump"] is None
    assert (rows[2]["colour"], rows[2]["direction"]) == (0.5, 1.0)
    assert "colour" not in mean_drift(clips)[0]


def test_what_a_caption_asks_for():
    assert asked("a red circle moving left") == Verdict("red", "left")
    assert asked("a cyan square turning") == Verdict("cyan", None)
    with pytest.raises(ConfigError, match="'a fox' is no caption of the rendered set"):
        asked("a fox")
