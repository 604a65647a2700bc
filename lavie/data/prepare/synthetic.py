"""A rendered dataset that a small network learns in minutes: coloured shapes that move on dark grounds.

A caption such as "a red circle moving right" says all that matters about its clip, so the clip that a trained network
draws for a prompt can be judged by its pixels. Some combinations of words are never drawn for training: prompts of
them show whether the network has learnt the words or only whole captions.

Lengths are in units of the frame's side and angles in radians unless said otherwise. All randomness comes from the
seed, the purpose and the number of a clip, so a set is the same every time.
"""

import io
import itertools
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DataError
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
"""Name -> (red, green, blue), each 0 to 255."""
NEW_COLOURS = {"orange": (245, 130, 20), "violet": (130, 60, 240)}
"""Colours that no set of `demo_set` shows: new words for a network that was trained on one."""
PALETTE = COLOURS | NEW_COLOURS
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Name -> unit vector (across, down), as the axes of an image point."""
MOTIONS = (*(f"moving {direction}" for direction in DIRECTIONS), "growing", "shrinking", "turning")
"""The words for motion in captions: the first four move across the frame, the others stay where they are."""

TRAVEL = 0.58, 0.66
"""Least and most distance that shapes move in a clip by default: more than half of the frame, which is plain to see."""
FARTHEST = 0.66
"""Most distance that shapes may be made to move: they pass the centre, and farther they would leave the frame."""


def _held_out() -> tuple[tuple[str, str, str], ...]:
    """Return twelve (colour, shape, direction) in which all colours occur equally often, and so shapes and directions.

    Colours and directions go round with periods of 6 and 4, so number i has the same two again only after 12. The three
    shapes would always meet the same colours, 3 being a divisor of 6, so they are moved on by one after six numbers.
    """
    colours, directions = tuple(COLOURS), tuple(DIRECTIONS)
    return tuple((colours[i % 6], SHAPES[(i + i // 6) % 3], directions[i % 4]) for i in range(12))


HELD_OUT = _held_out()
"""(colour, shape, direction) never drawn for training: each colour 2 times, each shape 4, each direction 3."""

Combination = tuple[str, str, str]
"""(colour, shape, motion), the words of a clip's caption."""

_HELD_OUT_CLIPS = [(colour, shape, f"moving {direction}") for colour, shape, direction in HELD_OUT]
_MOVERS: list[Combination] = [c for c in itertools.product(COLOURS, SHAPES, MOTIONS[:4]) if c not in _HELD_OUT_CLIPS]
_OTHERS: list[Combination] = [
    # A turning circle looks like one at rest.
    (colour, shape, motion)
    for colour, shape, motion in itertools.product(COLOURS, SHAPES, MOTIONS[4:])
    if (shape, motion) != ("circle", "turning")
]


def clip_caption(colour: str, shape: str, motion: str) -> str:
    """Return the caption of a clip, such as "a red circle moving right"."""
    return f"a {colour} {shape} {motion}"


def image_caption(colour: str, shape: str) -> str:
    """Return the caption of an image, such as "a red circle"."""
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
    """Draw a clip of one shape on a dark, unsaturated ground.

    1. A moving shape is 33 to 40 % of the frame across. It moves at constant speed and is near the middle of its way at
       half time, on a line that passes the centre at a random distance.
    2. A growing or shrinking shape changes its size by a factor of 2.2; at its largest it is 38 to 45 % across.
    3. A turning shape, 38 to 45 % across, turns by a quarter to a third of a circle in either direction.

    All shapes are tilted a little, by 0.1 radians at most.

    Args:
        colour: a name in PALETTE.
        shape: one of SHAPES.
        motion: one of MOTIONS.
        rng: the source of everything that the caption leaves open.
        frames: number of frames; the motion fills them all.
        size: height and width in pixels.
        travel: least and most distance that a moving shape moves.

    Returns:
        uint8 (frames, size, size, 3), RGB.
    """
    # Time runs from -0.5 to 0.5, so that positions and angles are given for the middle of the clip.
    t = np.linspace(-0.5, 0.5, frames) if frames > 1 else np.zeros(1)
    angle = np.full(frames, rng.uniform(-0.1, 0.1))

    # Random numbers are drawn in a fixed order within each kind of motion: another order would draw other clips.
    if motion.startswith("moving "):
        # The line of motion lies aside of the centre, by half of what the frame has to spare at most.
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
            share = t + 0.5 if motion == "growing" else 0.5 - t
            radius = largest * (0.45 + 0.55 * share)

    # The ground is drawn last, so that it takes the random numbers that follow those of the motion.
    return _draw(colour, shape, centre, radius, angle, _background(size, rng))


def render_image(colour: str, shape: str, *, rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """Draw an image of one shape, anywhere within the frame, on a ground as in clips: uint8 (size, size, 3)."""
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
    video_colours: Collection[str] = tuple(COLOURS),
) -> tuple[PackReport, PackReport]:
    """Write the folders `out/train` and `out/validation`: H.264 mp4 and jpg in shards with indices, as `pack` writes.

    Of the training clips, 80 % move in one of the four directions. The validation set has two clips and one image of
    each held-out combination.

    Args:
        out: the folder of both sets.
        clips: number of training clips.
        images: number of training images.
        size: height and width in pixels; even, as H.264 wants it.
        frames: frames of a clip.
        fps: frames per second of a clip.
        seed: another seed gives other clips of the same captions.
        travel: least and most distance that moving shapes move, as for `render_clip`.
        video_colours: the colours of the training clips, names in COLOURS. The training images have all colours, and so
            have both kinds of the validation set.

    Returns:
        The reports of packing the training and the validation set.
    """
    # A set of other sizes or another seed would be added to the one that is there.
    for split in ("train", "validation"):
        if any(Path(out, split).glob("*.tar")):
            raise DataError(f"OUT {Path(out, split)}: holds shards already; give another folder, or delete them first")

    # Clips and images are yielded one by one, so that a large set is never in memory as a whole.
    train = itertools.chain(
        _clip_files(_training_combinations(clips, seed, video_colours), "train", size, frames, fps, seed, travel),
        _image_files(list(itertools.product(COLOURS, SHAPES)), images, "train", size, seed),
    )
    validation = itertools.chain(
        _clip_files(_HELD_OUT_CLIPS * 2, "validation", size, frames, fps, seed, travel),
        _image_files([c[:2] for c in _HELD_OUT_CLIPS], len(HELD_OUT), "validation", size, seed),
    )

    # The packer checks every clip as it checks clips of strangers, here against the set's own length and rate.
    return (
        pack_files(train, Path(out, "train"), num_frames=frames, fps=fps),
        pack_files(validation, Path(out, "validation"), num_frames=frames, fps=fps),
    )


def _training_combinations(clips: int, seed: int, colours: Collection[str] = tuple(COLOURS)) -> list[Combination]:
    """Return the combinations of the training clips, of the given colours, as evenly as their number allows.

    Of every ten clips the first eight move and the other two grow, shrink or turn. Within both kinds the combinations
    come round in a fixed random order, so that each occurs as often as any other, or once more.
    """
    rng = numpy_generator(seed, "demo order")
    movers = itertools.cycle([_MOVERS[i] for i in rng.permutation(len(_MOVERS)) if _MOVERS[i][0] in colours])
    stationary = itertools.cycle([_OTHERS[i] for i in rng.permutation(len(_OTHERS)) if _OTHERS[i][0] in colours])
    return [next(movers if i % 10 < 8 else stationary) for i in range(clips)]


def _clip_files(
    combinations: list[Combination],
    split: str,
    size: int,
    frames: int,
    fps: float,
    seed: int,
    travel: tuple[float, float],
) -> Iterator[CaptionedFile]:
    """Yield one mp4 per combination; `split` (train or validation) tells the random numbers of the two sets apart."""
    for number, combination in enumerate(combinations):
        rng = numpy_generator(seed, f"demo {split} clip", number)
        media = encode_mp4(render_clip(*combination, rng=rng, frames=frames, size=size, travel=travel), fps)
        stem = "_".join(combination).replace(" ", "_")
        yield _in_memory(f"clip {number}", stem, media, clip_caption(*combination))


def _image_files(
    combinations: list[tuple[str, str]], count: int, split: str, size: int, seed: int
) -> Iterator[CaptionedFile]:
    """Yield `count` jpgs that go round the combinations of colour and shape."""
    for number in range(count):
        colour, shape = combinations[number % len(combinations)]
        rng = numpy_generator(seed, f"demo {split} image", number)
        file = io.BytesIO()
        Image.fromarray(render_image(colour, shape, rng=rng, size=size)).save(file, "jpeg", quality=95, subsampling=0)
        yield _in_memory(f"image {number}", f"{colour}_{shape}", file.getvalue(), image_caption(colour, shape))


def _in_memory(name: str, stem: str, media: bytes, caption: str) -> CaptionedFile:
    """Return a captioned file whose bytes are at hand. A function of its own, so that each file keeps its own bytes."""
    return CaptionedFile(name, stem, lambda: media, caption)


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a ground that is dark and nearly grey, with a faint gradient: float64 (size, size, 3) in [0, 1]."""
    y, x = _grid(size)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.04)
    level = rng.uniform(0.05, 0.22) + strength * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    return np.clip(level[..., None] + rng.uniform(-0.02, 0.02, 3), 0, 1)


def _draw(
    colour: str, shape: str, centre: np.ndarray, radius: np.ndarray, angle: np.ndarray, background: np.ndarray
) -> np.ndarray:
    """Draw a shape over a ground, with smooth edges.

    Args:
        colour: a name in PALETTE.
        shape: one of SHAPES; squares and triangles are made about as wide as the circle.
        centre: float64 (F, 2), (across, down).
        radius: float64 (F,), of the circle.
        angle: float64 (F,), radians; positive turns clockwise.
        background: float64 (size, size, 3) in [0, 1], the same for all frames.

    Returns:
        uint8 (F, size, size, 3), RGB.
    """
    # Coordinates of the pixels as seen from the shape: moved to its centre and turned back by its angle.
    size = len(background)
    y, x = _grid(size)
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    cos, sin, r = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None], radius[:, None, None]
    dx, dy = cos * dx + sin * dy, cos * dy - sin * dx

    # The signed distance to the edge, negative inside. |dx| stands for the left and the right edge at once.
    if shape == "circle":
        distance = np.hypot(dx, dy) - r
    elif shape == "square":
        distance = np.maximum(abs(dx), abs(dy)) - 0.9 * r
    else:
        distance = np.maximum(dy, abs(dx) * np.sin(np.pi / 3) - dy * np.cos(np.pi / 3)) - 0.58 * r

    # A pixel whose centre lies half a pixel inside the edge is covered in full, half a pixel outside not at all.
    covered = np.clip(0.5 - distance * size, 0, 1)[..., None]
    picture = background * (1 - covered) + np.array(PALETTE[colour]) / 255 * covered
    return np.round(picture * 255).astype(np.uint8)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels' centres as two arrays, float64 (size, size): how far down, and how far across."""
    ticks = (np.arange(size) + 0.5) / size
    return np.meshgrid(ticks, ticks, indexing="ij")
