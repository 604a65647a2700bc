"""The measures on rendered clips, whose truth is known, and on clips that are spoilt in known ways."""

import numpy as np
import pytest

from lavie.data.prepare.synthetic import DIRECTIONS, HELD_OUT, render_clip, render_image
from lavie.evaluation.ablation.measures import (
    clip_measures,
    image_measures,
    longer_measures,
    path_of,
    quality_measures,
    sharpness,
    unsteadiness,
)

TRAINED = 6


def clip(case, frames=2 * TRAINED, size=48, travel=(0.4, 0.5), seed=0):
    rng = np.random.default_rng(seed)
    return render_clip(case[0], case[1], f"moving {case[2]}", rng=rng, frames=frames, size=size, travel=travel)


def test_a_path_is_that_of_the_rendered_shape():
    case = ("red", "circle", "right")
    path = path_of(clip(case))
    step = np.diff(path.centre, axis=0)
    assert step[:, 0] == pytest.approx(np.full(11, step[:, 0].mean()), abs=0.01)
    assert 0.4 <= path.centre[-1, 0] - path.centre[0, 0] <= 0.5
    assert step[:, 1] == pytest.approx(np.zeros(11), abs=0.01)
    # A circle of radius .165 to .2.
    assert np.pi * 0.165**2 * 0.9 < np.median(path.area) < np.pi * 0.2**2 * 1.3


def test_no_object_has_no_path():
    assert path_of(np.full((4, 32, 32, 3), 60, np.uint8)) is None


@pytest.mark.parametrize("case", HELD_OUT)
def test_rendered_clips_are_perfect(case):
    found = longer_measures(clip(case), TRAINED, case)
    assert found["area_kept"] > 0.9
    assert found["unsteadiness"] < 0.01
    assert {found[name] for name in ("colour", "direction", "first_colour", "first_direction")} == {1.0}
    assert clip_measures(clip(case), TRAINED, case) == {"colour": 1.0, "direction": 1.0}


def test_a_clip_that_turns_round_has_the_wrong_direction_behind():
    case = ("green", "square", "left")
    frames = clip(case, travel=(0.5, 0.5))
    found = longer_measures(np.concatenate([frames[:TRAINED], frames[TRAINED - 1 :: -1]]), TRAINED, case)
    assert (found["first_direction"], found["direction"]) == (1.0, 0.0)
    assert (found["first_colour"], found["colour"]) == (1.0, 1.0)


def test_a_clip_that_crashes_loses_its_object():
    case = ("blue", "circle", "up")
    frames = clip(case)
    frames[TRAINED:] = frames[:1, :1, :1]
    found = longer_measures(frames, TRAINED, case)
    assert (found["colour"], found["direction"], found["area_kept"]) == (0.0, 0.0, 0.0)
    assert found["unsteadiness"] is None
    assert (found["first_colour"], found["first_direction"]) == (1.0, 1.0)


def test_another_object_behind_is_another_colour():
    case = ("red", "circle", "down")
    frames = np.concatenate([clip(case)[:TRAINED], clip(("cyan", "circle", "down"))[TRAINED:]])
    assert longer_measures(frames, TRAINED, case)["colour"] == 0.0


def test_unsteadiness_by_hand():
    """A path at rest that jumps by .3 at frame 4 of 7: second differences of .3 and -.3, and 0 elsewhere."""
    centre = np.zeros((7, 2))
    centre[4:, 0] = 0.3
    assert unsteadiness(centre, 3) == pytest.approx(np.sqrt(2 * 0.3**2 / 3))
    assert unsteadiness(centre, 5) == 0.0
    # A jump from frame 2 to frame 3 is seen by a measure from frame 3: it spans the frame before.
    assert unsteadiness(centre[1:], 3) == pytest.approx(np.sqrt(0.3**2 / 2))
    # Where the object is not seen in frame 5, only the second difference of frame 3 is left.
    centre[5] = np.nan
    assert unsteadiness(centre, 3) == pytest.approx(0.3)
    assert unsteadiness(np.full((7, 2), np.nan), 3) is None
    assert unsteadiness(np.linspace([0, 0], [1, 1], 9), 3) == pytest.approx(0, abs=1e-12)


def test_images():
    image = render_image("cyan", "square", rng=np.random.default_rng(0))[None]
    assert image_measures(image, 1, ("cyan", "square", None)) == {"colour": 1.0}
    assert image_measures(image, 1, ("blue", "square", None)) == {"colour": 0.0}


def test_sharpness():
    """A step of 100 levels over two pixels has a gradient of 50; enlarged clips are less sharp than rendered ones."""
    edge = np.zeros((1, 32, 32, 3), np.uint8)
    edge[:, :, 16:] = 100
    assert sharpness(edge) == pytest.approx(50)
    case = ("yellow", "triangle", "right")
    soft = clip(case, frames=4, size=16).repeat(3, axis=1).repeat(3, axis=2).astype(float)
    for axis in (1, 2):
        soft = (np.roll(soft, 1, axis) + soft + np.roll(soft, -1, axis)) / 3
    assert quality_measures(clip(case, frames=4), 4, case)["sharpness"] == pytest.approx(1, abs=0.15)
    assert quality_measures(soft.astype(np.uint8), 4, case)["sharpness"] < 0.7
    assert set(DIRECTIONS) == {case[2] for case in HELD_OUT}
