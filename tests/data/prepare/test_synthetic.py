"""The demo set shows what its captions say, is balanced, holds the held-out combinations back, and is reproducible."""

from collections import Counter

import numpy as np
import pytest

from lavie.data.media.decode import decode_frames
from lavie.data.media.image import decode_image
from lavie.data.prepare import synthetic
from lavie.data.prepare.synthetic import (
    COLOURS,
    DIRECTIONS,
    HELD_OUT,
    MOTIONS,
    SHAPES,
    _training_combinations,
    clip_caption,
    demo_set,
    render_clip,
    render_image,
)
from lavie.data.shards.index import load_index
from lavie.data.shards.member import read_member
from lavie.seeds import numpy_generator


def mask(frames: np.ndarray) -> np.ndarray:
    """Return where the shape is: it is saturated, the ground is not."""
    return np.ptp(frames.astype(int), axis=-1) > 60


def centres(frames: np.ndarray) -> np.ndarray:
    """Return the centres of the shape, float64 (F, 2): across and down, in units of the frame."""
    return np.array([np.argwhere(m)[:, ::-1].mean(0) + 0.5 for m in mask(frames)]) / frames.shape[1]


def nearest_colour(frames: np.ndarray) -> str:
    """Return the name in COLOURS that the shape's median colour is nearest to."""
    mean = np.median(frames[mask(frames)], axis=0)
    return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_movers_move_as_told_far_and_straight(shape, direction):
    for n in range(10):
        frames = render_clip("red", shape, f"moving {direction}", rng=numpy_generator(n, "test"), frames=8, size=64)
        assert frames.shape == (8, 64, 64, 3)
        assert frames.dtype == np.uint8
        path = centres(frames)
        way = path[-1] - path[0]
        assert 0.5 < way @ DIRECTIONS[direction] < 0.7
        assert np.abs(way - (way @ DIRECTIONS[direction]) * np.array(DIRECTIONS[direction])).max() < 0.02


def test_movers_go_as_far_as_asked():
    for travel in ((0.2, 0.2), (0.3, 0.6)):
        for n in range(5):
            frames = render_clip("red", "circle", "moving up", rng=numpy_generator(n, "test"), travel=travel)
            way = centres(frames)[0] - centres(frames)[-1]
            assert travel[0] - 0.01 < way[1] < travel[1] + 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_growing_shrinking_and_turning(shape):
    for n in range(5):
        area = {
            motion: mask(render_clip("cyan", shape, motion, rng=numpy_generator(n, "test"))).sum((1, 2))
            for motion in ("growing", "shrinking", "turning")
        }
        assert (np.diff(area["growing"]) > 0).all()
        assert area["growing"][-1] > 3 * area["growing"][0]
        assert (np.diff(area["shrinking"]) < 0).all()
        assert np.ptp(area["turning"]) < 0.12 * area["turning"].mean()
        still = centres(render_clip("cyan", shape, "turning", rng=numpy_generator(n, "test")))
        assert np.ptp(still, axis=0).max() < 0.03


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_colour_and_size_are_plain(colour, shape):
    for n in range(10):
        image = render_image(colour, shape, rng=numpy_generator(n, "test"), size=64)
        assert nearest_colour(image[None]) == colour
        width = np.ptp(np.argwhere(mask(image).any(0))) + 1
        assert 0.27 < width / 64 < 0.5


def test_shapes_fill_their_box_differently():
    filled = {}
    for shape in SHAPES:
        m = mask(render_image("red", shape, rng=numpy_generator(1, "test"), size=128)[None])[0]
        rows, columns = np.argwhere(m.any(1)), np.argwhere(m.any(0))
        filled[shape] = m.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
    assert filled["triangle"] < 0.6 < filled["circle"] < 0.82 < filled["square"]


def test_grounds_are_dark_and_unsaturated_but_vary():
    corners = []
    for n in range(40):
        frames = render_clip("red", "circle", "growing", rng=numpy_generator(n, "test"))
        ground = frames[0][~mask(frames)[0]]
        assert np.quantile(ground, 0.9) < 90
        corners.append(frames[0, 0, 0].mean())
    assert np.std(corners) > 8


def test_edges_are_antialiased():
    frame = render_image("red", "square", rng=numpy_generator(0, "test"), size=64).astype(int)
    reds = frame[..., 0]
    assert ((reds > 90) & (reds < 200)).sum() > 20


def test_held_out_covers_every_colour_shape_and_direction():
    assert len(set(HELD_OUT)) == 12
    for values, column in ((COLOURS, 0), (SHAPES, 1), (DIRECTIONS, 2)):
        assert set(Counter(c[column] for c in HELD_OUT)) == set(values)


def test_demo_set_is_what_it_says(demo):
    train, validation = load_index((str(demo / "train"),)), load_index((str(demo / "validation"),))
    held_out = {clip_caption(c, s, f"moving {d}") for c, s, d in HELD_OUT}
    assert {s.caption for s in validation.videos} == held_out
    assert not held_out & {s.caption for s in train}
    assert (len(validation.videos), len(validation.images)) == (24, 12)
    assert all((s.frames, s.fps, s.vfr, s.width, s.height) == (12, 12, False, 32, 32) for s in train.videos)
    assert sum("moving" in s.caption for s in train.videos) == 20
    assert {s.caption.split(maxsplit=3)[3] for s in train.videos} <= set(MOTIONS)


def test_stored_clips_and_images_show_their_captions(demo):
    for sample in load_index((str(demo / "validation"),)):
        colour, direction = sample.caption.split()[1], sample.caption.split()[-1]
        if sample.kind == "image":
            assert nearest_colour(decode_image(read_member(sample))[None]) == colour
        else:
            frames = decode_frames(read_member(sample), range(12))
            assert nearest_colour(frames) == colour
            path = centres(frames)
            assert (path[-1] - path[0]) @ DIRECTIONS[direction] > 0.45


@pytest.mark.slow
def test_demo_set_gives_the_same_bytes_again_and_others_for_another_seed(demo, tmp_path):
    demo_set(tmp_path / "again", clips=24, images=10, size=32)
    demo_set(tmp_path / "other", clips=24, images=10, size=32, seed=1)
    for split in ("train", "validation"):
        first = {p.name: p.read_bytes() for p in (demo / split).iterdir()}
        assert first == {p.name: p.read_bytes() for p in (tmp_path / "again" / split).iterdir()}
        assert first != {p.name: p.read_bytes() for p in (tmp_path / "other" / split).iterdir()}


def test_training_clips_are_balanced():
    combinations = _training_combinations(480, 0)
    counts = Counter(combinations)
    movers = [n for (_, _, motion), n in counts.items() if "moving" in motion]
    others = [n for (_, _, motion), n in counts.items() if "moving" not in motion]
    assert (len(movers), len(others), sum(movers)) == (60, 48, 384)
    assert max(movers) - min(movers) <= 1
    assert max(others) - min(others) <= 1
    assert not any(shape == "circle" and motion == "turning" for _, shape, motion in combinations)


def test_shapes_are_tilted_placed_and_sized_as_told(monkeypatch):
    """The bounds of what the caption leaves open are those of the docstrings, and all of their range comes."""
    drawn = []
    monkeypatch.setattr(synthetic, "_draw", lambda *given: (drawn.append(given[2:5]), np.zeros((9, 1)))[1])
    for motion in MOTIONS:
        drawn.clear()
        for n in range(300):
            render_clip("red", "square", motion, rng=numpy_generator(n, "test"), frames=9, size=8)
        centre, radius, angle = (np.stack(values) for values in zip(*drawn, strict=True))
        first, turn = angle[:, 0], angle[:, -1] - angle[:, 0]
        assert -0.1 <= first.min() < -0.09 and 0.09 < first.max() <= 0.1
        if motion == "turning":
            assert np.pi / 2 <= np.abs(turn).min() and np.abs(turn).max() <= np.pi / 1.5 + 1e-9
            assert 100 < (turn > 0).sum() < 200
        else:
            assert not turn.any()
        across = 2 * radius.max(1)
        least, most = (0.33, 0.40) if motion.startswith("moving") else (0.38, 0.45)
        assert least <= across.min() < least + 0.005 and most - 0.005 < across.max() <= most
        ratio = radius[:, -1] / radius[:, 0]
        np.testing.assert_allclose(ratio, {"growing": 2.22, "shrinking": 1 / 2.22}.get(motion, 1), rtol=0.01)
        if not motion.startswith("moving"):
            assert centre.min() >= 0.3 and centre.max() <= 0.7 and np.ptp(centre, axis=1).max() == 0

    drawn.clear()
    for n in range(300):
        render_image("red", "square", rng=numpy_generator(n, "test"), size=8)
    centre, radius, angle = (np.concatenate(values) for values in zip(*drawn, strict=True))
    assert -0.1 <= angle.min() < -0.09 and 0.09 < angle.max() <= 0.1
    assert 2 * radius.min() >= 0.33 and 2 * radius.max() <= 0.45
    assert (centre >= radius[:, None]).all() and (centre <= 1 - radius[:, None]).all()
