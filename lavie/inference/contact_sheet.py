"""A contact sheet: clips as rows of frames under their captions, so that many are judged at one glance."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP, LINE = 12, 4, 20
"""Pixels around the sheet, between frames, and per line of a caption."""
TILE = 128, 256
"""Pixels: a frame's shorter side is enlarged by a whole factor to at least the first, its longer side reduced to at
most the second."""
INK, PAPER = (20, 20, 20), (255, 255, 255)
"""The colours of captions and of the sheet, RGB."""


def contact_sheet(rows: Sequence[tuple[str, np.ndarray]], *, columns: int = 8) -> np.ndarray:
    """Return the picture of all rows, uint8 (H, W, 3).

    Args:
        rows: (caption, frames uint8 (F, H, W, 3)); sizes may differ between rows. Single frames with one size share
            rows, each under its own caption.
        columns: frames that are shown of a longer clip, evenly spaced from the first to the last.
    """
    strips = [_strip(caption, [_tile(frame) for frame in _pick(frames, columns)]) for caption, frames in rows]
    if all(len(frames) == 1 for _, frames in rows):
        strips = [_beside(strips[start : start + columns]) for start in range(0, len(strips), columns)]
    width = max(strip.width for strip in strips) + 2 * MARGIN
    height = sum(strip.height + MARGIN for strip in strips) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    top = MARGIN
    for strip in strips:
        sheet.paste(strip, (MARGIN, top))
        top += strip.height + MARGIN
    return np.asarray(sheet)


def beside(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return one clip that plays several clips of one scene side by side.

    Args:
        clips: uint8 (F_i, H_i, W_i, 3) of one duration and one aspect ratio.

    Returns:
        uint8 (F, H, W, 3) with the frames of the longest and the height of the highest clip: frames of shorter clips
        are repeated, and pixels of lower clips are enlarged.
    """
    frames, height = max(len(clip) for clip in clips), max(clip.shape[1] for clip in clips)
    strips = []
    for clip in clips:
        width = round(clip.shape[2] * height / clip.shape[1])
        shown = clip[np.arange(frames) * len(clip) // frames]
        pictures = [Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST) for frame in shown]
        strips.append(np.stack([np.asarray(picture) for picture in pictures]))
        strips.append(np.full((frames, height, GAP, 3), PAPER, np.uint8))
    return np.concatenate(strips[:-1], axis=2)


def _pick(frames: np.ndarray, columns: int) -> np.ndarray:
    """Return at most `columns` frames, evenly spaced from the first to the last."""
    count = min(columns, len(frames))
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]


def _tile(frame: np.ndarray) -> Image.Image:
    """Return a frame at the size at which the sheet shows it; see TILE."""
    picture = Image.fromarray(frame)
    smallest, largest = TILE
    factor = -(-smallest // min(picture.size))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return picture


def _strip(caption: str, tiles: list[Image.Image]) -> Image.Image:
    """Return frames side by side under their caption, which is wrapped to their width."""
    font = ImageFont.load_default(size=15)
    width = sum(tile.width + GAP for tile in tiles) - GAP
    lines = textwrap.wrap(caption, max(12, int(width / font.getlength("n")))) or [""]
    top = LINE * len(lines)
    strip = Image.new("RGB", (width, top + max(tile.height for tile in tiles)), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((0, number * LINE), line, fill=INK, font=font)
    x = 0
    for tile in tiles:
        strip.paste(tile, (x, top))
        x += tile.width + GAP
    return strip


def _beside(strips: list[Image.Image]) -> Image.Image:
    """Return strips in one row, their bottoms aligned: captions of several lines grow upwards."""
    height = max(strip.height for strip in strips)
    row = Image.new("RGB", (sum(strip.width + GAP for strip in strips) - GAP, height), PAPER)
    x = 0
    for strip in strips:
        row.paste(strip, (x, height - strip.height))
        x += strip.width + GAP
    return row
