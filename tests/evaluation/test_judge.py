"""The judge is right about rendered clips, small and noisy ones too, and silent where there is nothing to see."""

import itertools

import numpy as np
import pytest
from PIL import Image

from lavie.data.prepare.synthetic import COLOURS, DIRECTIONS, MOTIONS, SHAPES, render_clip, render_image
from lavie.evaluation.judge import Verdict, judge_clip, judge_image

ALL = [(colour, shape, direction) for colour, shape, direction in itertools.product(COLOURS, SHAPES, DIRECTIONS)]


def rendered(seed, frames=8):
    rng = np.random.default_rng(seed)
    return [
        (render_clip(colour, shape, f"moving {direction}", rng=rng, frames=frames, size=64), Verdict(colour, direction))
        for colour, shape, direction in ALL
    ]


def resized(clip, size):
    return np.stack([np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.BOX)) for f in clip])


def noisy(clip, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, clip.shape)
    return (clip + noise).round().clip(0, 255).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", (0, 25))
@pytest.mark.parametrize("size", (64, 32))
def test_rendered_clips(size, sigma):
    pairs = rendered(0) + rendered(1)
    seen = [judge_clip(noisy(resized(clip, size), sigma)) for clip, _ in pairs]
    for field in (0, 1):
        wrong = [(got, truth) for got, (_, truth) in zip(seen, pairs, strict=True) if got[field] != truth[field]]
        assert len(wrong) <= 0.02 * len(pairs), wrong


def test_light_and_blur_do_not_matter():
    for clip, truth in rendered(2)[::5]:
        blurred = np.stack([np.asarray(Image.fromarray(f).reduce(4).resize((64, 64))) for f in clip])
        flicker = blurred + np.linspace(-20, 20, len(clip))[:, None, None, None]
        assert judge_clip(flicker.clip(0, 255).astype(np.uint8)) == truth


def test_images():
    rng = np.random.default_rng(3)
    for colour, shape in list(itertools.product(COLOURS, SHAPES)) * 3:
        image = render_image(colour, shape, rng=rng)
        assert judge_image(image) == judge_image(noisy(image, 25)) == colour


def test_growing_and_turning_are_no_directions():
    rng = np.random.default_rng(6)
    for colour, shape, motion in itertools.product(COLOURS, SHAPES, MOTIONS):
        if not motion.startswith("moving"):
            assert judge_clip(render_clip(colour, shape, motion, rng=rng)) == Verdict(colour, None)


def test_a_still_object_has_no_direction():
    for clip, truth in rendered(4)[::7]:
        assert judge_clip(clip[:1].repeat(8, axis=0)) == Verdict(truth.colour, None)
        assert judge_clip(clip[:1]) == Verdict(truth.colour, None)


def test_backwards_is_the_opposite_direction():
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for clip, truth in rendered(5)[::7]:
        assert judge_clip(clip[::-1]) == Verdict(truth.colour, opposite[truth.direction])


def test_two_colours_are_not_a_third():
    rng = np.random.default_rng(7)
    red, blue = (render_clip(c, "square", "moving up", rng=rng) for c in ("red", "blue"))
    assert judge_clip(np.concatenate([red, blue])).colour != "magenta"


NOTHING = {
    "uniform": lambda rng, n: rng.integers(0, 256, (8, n, n, 3)),
    "gaussian": lambda rng, n: rng.normal(128, 60, (8, n, n, 3)),
    "blobs": lambda rng, n: rng.integers(0, 256, (8, n // 4, n // 4, 3)).repeat(4, 1).repeat(4, 2),
    "grey noise": lambda rng, n: rng.integers(0, 256, (8, n, n, 1)).repeat(3, -1),
    "black": lambda rng, n: np.zeros((8, n, n, 3)),
    "coloured": lambda rng, n: np.full((8, n, n, 3), rng.integers(0, 256, 3)),
    "gradient": lambda rng, n: np.linspace(0, 1, n)[:, None, None] * rng.integers(0, 256, 3) + np.zeros((8, n, n, 3)),
}


@pytest.mark.parametrize("size", (32, 64))
@pytest.mark.parametrize("kind", NOTHING)
def test_nothing_is_seen_in_nothing(kind, size):
    for seed in range(5):
        clip = NOTHING[kind](np.random.default_rng(seed), size)
        assert judge_clip(clip.clip(0, 255).astype(np.uint8)) == Verdict(None, None)


def squared(background, square, side=16, frames=8, size=64):
    """A still clip: a square in the middle of a background, each a colour or one for each frame."""
    clip = np.broadcast_to(np.reshape(background, (-1, 1, 1, 3)), (frames, size, size, 3)).copy()
    first = (size - side) // 2
    clip[:, first : first + side, first : first + side] = np.reshape(square, (-1, 1, 1, 3))
    return clip.astype(np.uint8)


@pytest.mark.parametrize("background", ((200, 140, 80), (30, 120, 60), (90, 90, 220), (20, 20, 20)))
def test_a_coloured_background_hides_nothing(background):
    """How far it is from grey is no noise."""
    for colour, rgb in COLOURS.items():
        chroma = np.array(rgb) - np.mean(rgb) - (np.array(background) - np.mean(background))
        if np.linalg.norm(chroma) > 60:
            assert judge_clip(squared(background, rgb)) == Verdict(colour, None)


@pytest.mark.parametrize("blue, seen", ((16, False), (17, True)))
def test_a_faint_object_is_none(blue, seen):
    """Of yellow (b, b, -2b) on grey the distance is b times the root of 6: 39.2 and 41.6, where 40 is the least."""
    clip = squared((128, 128, 128), (128 + blue, 128 + blue, 128 - 2 * blue))
    assert judge_clip(clip) == Verdict("yellow" if seen else None, None)


@pytest.mark.parametrize("blue, seen", ((22, False), (25, True)))
def test_an_object_stands_out_from_the_noise_of_its_background(blue, seen):
    """The background is 10 times the root of 2 from its median in every frame, and four times that are 56.6."""
    flicker = [(128 + sign * 10, 128 - sign * 10, 128) for sign in (1, -1) * 4]
    assert judge_clip(squared(flicker, (128 + blue, 128 + blue, 128 - 2 * blue))).colour == ("yellow" if seen else None)


@pytest.mark.parametrize("side, seen", ((2, False), (8, True), (44, True), (54, False)))
def test_an_object_is_neither_a_speck_nor_the_picture(side, seen):
    clip = squared((128, 128, 128), COLOURS["red"], side)
    assert judge_clip(clip).colour == ("red" if seen else None)
