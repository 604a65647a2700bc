"""Films to try a curation on: rendered shots with known cuts, captions, and what raw films suffer from.

circles/cuts.mp4         ten shots with hard cuts
circles/dissolves.mp4    six shots, each dissolving into the next
squares/bars.mp4         eight shots between black bars
squares/logo.mp4         24 shots under one logo
triangles/again.webm     the first five shots of circles/cuts.mp4 at half the size, encoded anew
triangles/dull.mp4       a shot that stands still, one in the dark, one of ten frames, and one that is good
triangles/damaged.mp4    a film that was cut short
captions.jsonl           a caption for each shot, by film and frames

Lengths are in frames and sizes in pixels. The same seed gives the same films.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.media.encode import encode_mp4, encode_vp9
from ..data.prepare.synthetic import COLOURS, MOTIONS, clip_caption, render_clip
from ..errors import ConfigError
from ..labels import draw_text
from ..seeds import numpy_generator

FPS = 24.0
HEIGHT, WIDTH = 144, 256
BARS = 18
"""Pixels of each of the two bars."""
DISSOLVE = 10
"""Frames in which one shot passes into the next."""
LOGO = "LOGO"
CAPTIONS = "captions.jsonl"


@dataclass(frozen=True)
class Shot:
    """One shot of a film."""

    frames: np.ndarray
    """uint8 (F, HEIGHT, WIDTH, 3), RGB."""
    caption: str


@dataclass(frozen=True)
class DemoFilm:
    """A film that was rendered."""

    film: str
    """Its path below the folder."""
    starts: tuple[int, ...]
    """The first frame of each shot; of a dissolve, the first frame that is the new shot's alone."""
    frames: int


def render_films(
    out: Path, seed: int = 0, progress: Callable[[int, int | None], None] = lambda done, total: None
) -> list[DemoFilm]:
    """Render the films of this module into a folder, and return them in the order of this module.

    Args:
        out: the folder, made if need be.
        seed: another one gives other films.
        progress: called after each film with the number of films done and of all.

    Raises:
        ConfigError: the folder holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: holds something already: give another folder")
    films = []
    kinds = list(_films(seed))
    for number, (name, parts, encode) in enumerate(kinds, start=1):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        starts = tuple(start for start, _ in parts)
        frames = np.concatenate([shot.frames for _, shot in parts])
        path.write_bytes(encode(frames))
        films.append(DemoFilm(name, starts, len(frames)))
        with (out / CAPTIONS).open("a", encoding="utf-8") as file:
            for (start, shot), end in zip(parts, [*starts[1:], len(frames)], strict=True):
                row = {"film": name, "start_frame": start, "end_frame": end, "caption": shot.caption}
                file.write(json.dumps(row) + "\n")
        progress(number, len(kinds))
    return films


Part = tuple[int, Shot]
"""The first frame of a shot in its film, and the shot."""


def _films(seed: int) -> Iterator[tuple[str, list[Part], Callable[[np.ndarray], bytes]]]:
    """Yield the path of each film, its shots, and what makes a file of its frames."""

    def shots(film: int, shape: str, count: int, lengths: tuple[int, int]) -> list[Shot]:
        """Return shots of one shape, each of a random length between two."""
        return [_shot(numpy_generator(seed, "curation demo", film, i), shape, lengths) for i in range(count)]

    cuts = shots(0, "circle", 10, (24, 60))
    yield "circles/cuts.mp4", _joined(cuts), _mp4
    yield "circles/dissolves.mp4", _dissolved(shots(1, "circle", 6, (48, 72))), _mp4
    yield "squares/bars.mp4", _joined(shots(2, "square", 8, (24, 60))), lambda frames: _mp4(_barred(frames))
    yield "squares/logo.mp4", _joined(shots(3, "square", 24, (20, 32))), lambda frames: _mp4(_marked(frames))
    yield "triangles/again.webm", _joined(cuts[:5]), lambda frames: encode_vp9(frames[:, ::2, ::2], FPS)
    good, still, dark, short = shots(4, "triangle", 4, (40, 60))
    still = Shot(np.repeat(still.frames[:1], 40, 0), still.caption)
    dark = Shot(dark.frames // 24, dark.caption)
    short = Shot(short.frames[:10], short.caption)
    yield "triangles/dull.mp4", _joined([still, dark, short, good]), _mp4
    damaged = shots(5, "triangle", 3, (40, 60))
    yield "triangles/damaged.mp4", _joined(damaged), lambda frames: _cut_short(_mp4(frames))


def _shot(rng: np.random.Generator, shape: str, lengths: tuple[int, int]) -> Shot:
    """Render a shape that moves before a landscape of random colours which the camera passes."""
    count = int(rng.integers(*lengths, endpoint=True))
    colour, motion = str(rng.choice(list(COLOURS))), str(rng.choice(MOTIONS))
    clip = render_clip(colour, shape, motion, rng=rng, frames=count, size=HEIGHT)
    ground = _landscape(rng, count)
    left = (WIDTH - HEIGHT) // 2
    # The clip's own ground is dark, so whatever is bright is the shape.
    shown = np.clip((clip.max(-1, keepdims=True).astype(np.float32) - 80) / 80, 0, 1)
    inner = ground[:, :, left : left + HEIGHT]
    ground[:, :, left : left + HEIGHT] = np.round(inner * (1 - shown) + clip * shown)
    return Shot(ground, clip_caption(colour, shape, motion))


def _landscape(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return smooth colours that move to the left, a pixel a frame: uint8 (count, HEIGHT, WIDTH, 3)."""
    size = HEIGHT, WIDTH + count
    falls = np.exp(-(np.fft.fftfreq(size[0])[:, None] ** 2 + np.fft.rfftfreq(size[1]) ** 2) / 0.002)
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, *size))) * falls, size)
    level = rng.uniform(60, 150, (3, 1, 1))
    picture = np.clip(level + 40 * noise / noise.std(), 20, 200).astype(np.uint8).transpose(1, 2, 0)
    return np.stack([picture[:, t : t + WIDTH] for t in range(count)])


def _joined(shots: Sequence[Shot]) -> list[Part]:
    """Return shots behind one another, with the number of the first frame of each."""
    starts = np.cumsum([0, *(len(shot.frames) for shot in shots)])
    return [(int(start), shot) for start, shot in zip(starts, shots, strict=False)]


def _dissolved(shots: Sequence[Shot]) -> list[Part]:
    """Return shots of which each passes into the next; the mixed frames are the last ones of the earlier shot."""
    share = (np.arange(1, DISSOLVE + 1) / (DISSOLVE + 1))[:, None, None, None]
    mixed: list[Shot] = []
    for shot, following in zip(shots, [*shots[1:], None], strict=True):
        frames = shot.frames[DISSOLVE:] if mixed else shot.frames
        if following is not None:
            end = frames[-DISSOLVE:] * (1 - share) + following.frames[:DISSOLVE] * share
            frames = np.concatenate([frames[:-DISSOLVE], np.round(end).astype(np.uint8)])
        mixed.append(Shot(frames, shot.caption))
    return _joined(mixed)


def _barred(frames: np.ndarray) -> np.ndarray:
    """Return frames with black bars above and below."""
    frames = frames.copy()
    frames[:, :BARS] = frames[:, -BARS:] = 0
    return frames


def _marked(frames: np.ndarray) -> np.ndarray:
    """Return frames with a white word in the corner."""
    from PIL import Image, ImageDraw

    plate = Image.new("L", (WIDTH, HEIGHT))
    draw_text(ImageDraw.Draw(plate), (WIDTH - 70, 8), LOGO, 22, "#ffffff")
    word = (np.asarray(plate, np.float32) / 255)[..., None]
    return np.round(frames * (1 - word) + 255 * word).astype(np.uint8)


def _mp4(frames: np.ndarray) -> bytes:
    """Return frames as H.264 with a keyframe each second, beside those that the encoder puts at cuts."""
    return encode_mp4(frames, FPS, gop=24)


def _cut_short(data: bytes) -> bytes:
    """Return the first two thirds of a file."""
    return data[: len(data) * 2 // 3]
