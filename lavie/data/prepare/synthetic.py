"""An endless captioned dataset that a small network learns in minutes: coloured shapes that move, drawn by formula.

Every clip is described in full by its caption ("a red circle moving right"), so what a trained network draws for a
prompt can be judged by looking. Some combinations are never drawn for training: they show whether the words compose.
"""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ...seeds import numpy_generator
from ..media.encode import encode_mp4
from .pack import PackReport, pack_files
from .sources import CaptionedFile

COLOURS = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 80, 240),
    "yellow": (240, 220, 40),
    "magenta": (220, 50, 220),
    "cyan": (40, 220, 230),
}
"""RGB, uint8."""
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""In image coordinates, (across, down)."""
MOTIONS = tuple(f"moving {d}" for d in DIRECTIONS) + ("growing", "shrinking", "turning")

TRAVEL = 0.58, 0.66
"""How far shapes move in a clip unless told otherwise, in units of the frame."""

FARTHEST = 0.66
"""From about the centre, farther would leave the frame."""

HELD_OUT = tuple((tuple(COLOURS)[i % 6], SHAPES[(i + i // 6) % 3], tuple(DIRECTIONS)[i % 4]) for i in range(12))
"""(colour, shape, direction) never drawn for training: each colour 2, each shape 4, each direction 3 times."""

Combination = tuple[str, str, str]
"""(colour, shape, motion)."""

_HELD_OUT_CLIPS = [(colour, shape, f"moving {direction}") for colour, shape, direction in HELD_OUT]
_MOVERS: list[Combination] = [c for c in itertools.product(COLOURS, SHAPES, MOTIONS[:4]) if c not in _HELD_OUT_CLIPS]
_OTHERS: list[Combination] = [
    # A turning circle looks like one at rest.
    (colour, shape, motion)
    for colour, shape, motion in itertools.product(COLOURS, SHAPES, MOTIONS[4:])
    if (shape, motion) != ("circle", "turning")
]


def clip_caption(colour: str, shape: str, motion: str) -> str:
    """As in "a red circle moving right"."""
    return f"a {colour} {shape} {motion}"


def image_caption(colour: str, shape: str) -> str:
    """As in "a red circle"."""
    return f"a {colour} {shape}"


def render_clip(
    colour: str,
    shape: str,
    motion: str,
    *,
    rng: np.random.Generator,
    frames: int = 8,
    size: int = 64,
    travel: tuple[float, float] = TRAVEL,
) -> np.ndarray:
    """uint8 (frames, size, size, 3): one shape on a dark, unsaturated ground.

    The shape is 30 to 45 % of the width across, at most 40 % if it moves. Movers travel a share of the frame between
    `travel` at constant speed through about the centre, at a random distance to the side; others grow or shrink by a
    factor of about 2.2, or turn by a quarter to a third of a circle.
    """
    t = np.linspace(-0.5, 0.5, frames) if frames > 1 else np.zeros(1)
    angle = np.full(frames, rng.uniform(-0.1, 0.1))
    if motion.startswith("moving "):
        direction = np.array(DIRECTIONS[motion.removeprefix("moving ")], float)
        radius = np.full(frames, rng.uniform(0.165, 0.20))
        aside = rng.uniform(-1, 1) * (0.5 - radius[0]) * 0.5
        middle = 0.5 + direction[::-1] * aside + direction * rng.uniform(-0.02, 0.02)
        centre = middle + t[:, None] * rng.uniform(*travel) * direction
    else:
        largest = rng.uniform(0.19, 0.225)
        centre = np.tile(rng.uniform(0.5 - 0.2, 0.5 + 0.2, 2), (frames, 1))
        radius = np.full(frames, largest)
        if motion == "turning":
            angle = angle + (t + 0.5) * rng.choice([-1, 1]) * rng.uniform(np.pi / 2, np.pi / 1.5)
        else:
            grown = t + 0.5 if motion == "growing" else 0.5 - t
            radius = largest * (0.45 + 0.55 * grown)
    return _draw(colour, shape, centre, radius, angle, _background(size, rng))


def render_image(colour: str, shape: str, *, rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """uint8 (size, size, 3): one shape at rest, anywhere, on the same grounds."""
    radius = rng.uniform(0.165, 0.225, 1)
    centre = rng.uniform(radius, 1 - radius, (1, 2))
    return _draw(colour, shape, centre, radius, rng.uniform(-0.1, 0.1, 1), _background(size, rng))[0]


def demo_set(
    out: str | Path,
    *,
    clips: int = 800,
    images: int = 240,
    size: int = 64,
    frames: int = 12,
    fps: float = 12,
    seed: int = 0,
    travel: tuple[float, float] = TRAVEL,
) -> tuple[PackReport, PackReport]:
    """Write `out/train` and `out/validation` as any dataset is packed: H.264 mp4 and jpg in shards with indices.

    Of the training clips, 80 % move in the four directions. Validation holds two clips and one image of each held-out
    combination. `size` must be even; for `travel` see `render_clip`.
    """
    train = itertools.chain(
        _clip_entries(_training_combinations(clips, seed), "train", size, frames, fps, seed, travel),
        _image_entries(list(itertools.product(COLOURS, SHAPES)), images, "train", size, seed),
    )
    validation = itertools.chain(
        _clip_entries(_HELD_OUT_CLIPS * 2, "validation", size, frames, fps, seed, travel),
        _image_entries([c[:2] for c in _HELD_OUT_CLIPS], len(HELD_OUT), "validation", size, seed),
    )
    return (
        pack_files(train, Path(out, "train"), num_frames=frames, fps=fps),
        pack_files(validation, Path(out, "validation"), num_frames=frames, fps=fps),
    )


def _training_combinations(clips: int, seed: int) -> list[Combination]:
    """Each mover as often as any other, and so each of the rest; in every ten clips, eight movers."""
    rng = numpy_generator(seed, "demo order")
    movers = itertools.cycle([_MOVERS[i] for i in rng.permutation(len(_MOVERS))])
    others = itertools.cycle([_OTHERS[i] for i in rng.permutation(len(_OTHERS))])
    return [next(movers if i % 10 < 8 else others) for i in range(clips)]


def _clip_entries(
    combinations: list[Combination],
    split: str,
    size: int,
    frames: int,
    fps: float,
    seed: int,
    travel: tuple[float, float],
) -> Iterator[CaptionedFile]:
    for number, combination in enumerate(combinations):
        rng = numpy_generator(seed, f"demo {split} clip", number)
        media = encode_mp4(render_clip(*combination, rng=rng, frames=frames, size=size, travel=travel), fps)
        stem = "_".join(combination).replace(" ", "_")
        yield _entry(f"clip {number}", stem, media, clip_caption(*combination))


def _image_entries(
    combinations: list[tuple[str, str]], count: int, split: str, size: int, seed: int
) -> Iterator[CaptionedFile]:
    for number in range(count):
        colour, shape = combinations[number % len(combinations)]
        rng = numpy_generator(seed, f"demo {split} image", number)
        file = io.BytesIO()
        Image.fromarray(render_image(colour, shape, rng=rng, size=size)).save(file, "jpeg", quality=95, subsampling=0)
        yield _entry(f"image {number}", f"{colour}_{shape}", file.getvalue(), image_caption(colour, shape))


def _entry(name: str, stem: str, media: bytes, caption: str) -> CaptionedFile:
    return CaptionedFile(name, stem, lambda: media, caption)


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """float (size, size, 3) in [0, 1]: nearly grey, dark, with a faint gradient."""
    y, x = _grid(size)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.04)
    level = rng.uniform(0.05, 0.22) + strength * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    return np.clip(level[..., None] + rng.uniform(-0.02, 0.02, 3), 0, 1)


def _draw(
    colour: str, shape: str, centre: np.ndarray, radius: np.ndarray, angle: np.ndarray, background: np.ndarray
) -> np.ndarray:
    """Blend the shape over the background by how much of each pixel it covers, from its signed distance.

    centre (F, 2) as (across, down), radius (F,), both in units of the frame; angle (F,) in radians. Squares and
    triangles have about the width of the circle.
    """
    size = len(background)
    y, x = _grid(size)
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    cos, sin, r = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None], radius[:, None, None]
    dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
    if shape == "circle":
        distance = np.hypot(dx, dy) - r
    elif shape == "square":
        distance = np.maximum(abs(dx), abs(dy)) - 0.9 * r
    else:
        distance = np.maximum(dy, abs(dx) * np.sin(np.pi / 3) - dy * np.cos(np.pi / 3)) - 0.58 * r
    covered = np.clip(0.5 - distance * size, 0, 1)[..., None]
    picture = background * (1 - covered) + np.array(COLOURS[colour]) / 255 * covered
    return np.round(picture * 255).astype(np.uint8)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels' centres, down and across, in units of the frame."""
    ticks = (np.arange(size) + 0.5) / size
    return np.meshgrid(ticks, ticks, indexing="ij")
