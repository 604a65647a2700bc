"""A contact sheet: clips as rows of frames under their captions, so that many are judged at one glance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..labels import draw_text, wrapped

MARGIN, GAP, LINE = 12, 4, 20
"""Pixels around the sheet and between panels, between frames, and per line of a caption."""
LETTERS = 15
"""Pixels of a caption's letters."""
TILE = 128, 256
"""Pixels: a frame's shorter side is enlarged by a whole factor to at least the first, its longer side reduced to at
most the second."""
COLUMNS = 8
"""Frames that are shown of a longer clip, unless another number is asked for."""
PAPER, INK, WRONG, KEY = "#ffffff", "#141414", "#c1121f", "#e08a1e"
"""The colours of the sheet, of captions, of captions of what is wrong, and around marked frames."""
BORDER = 3
"""Pixels of the line around a marked frame."""


@dataclass(frozen=True)
class Panel:
    """One clip of a sheet, under its caption."""

    caption: str
    frames: np.ndarray
    """uint8 (F, H, W, 3)."""
    wrong: bool = False
    """Whether the caption is drawn in red."""
    marked: Sequence[int] = ()
    """The numbers of the frames that get a line around them."""
    truth: np.ndarray | None = None
    """What the clip should be, shown beside it: uint8 (F, H, W, 3)."""


def contact_sheet(
    rows: Sequence[Panel | tuple[str, np.ndarray]], *, columns: int = COLUMNS, across: int = 1, tile: int = TILE[0]
) -> np.ndarray:
    """Return the picture of all rows, uint8 (H, W, 3).

    Args:
        rows: panels, or (caption, frames) of plain ones; sizes may differ between them. Single frames with one size
            share rows, each under its own caption.
        columns: frames that are shown of a longer clip, evenly spaced from the first to the last.
        across: panels beside one another.
        tile: pixels to which the shorter side of a frame is enlarged at least.
    """
    panels = [row if isinstance(row, Panel) else Panel(*row) for row in rows]
    strips = [_strip(panel, columns, tile) for panel in panels]
    single = all(len(panel.frames) == 1 for panel in panels)
    if single:
        across = max(across, columns)
    if across > 1:
        gap = GAP if single else 3 * MARGIN
        strips = [_beside(strips[start : start + across], gap) for start in range(0, len(strips), across)]
    width = max(strip.width for strip in strips) + 2 * MARGIN
    height = sum(strip.height + MARGIN for strip in strips) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    top = MARGIN
    for strip in strips:
        sheet.paste(strip, (MARGIN, top))
        top += strip.height + MARGIN
    return np.asarray(sheet)


def picked(frames: int, columns: int) -> list[int]:
    """Return the numbers of at most `columns` of so many frames, evenly spaced from the first to the last."""
    return [int(number) for number in np.linspace(0, frames - 1, min(columns, frames)).round()]


def reduced(clip: np.ndarray, columns: int) -> np.ndarray:
    """Return what a sheet of so many columns shows of a clip, so that the clip itself need not be kept for it.

    Args:
        clip: uint8 (F, H, W, 3).
        columns: as for `contact_sheet`, whose `tile` is not given.

    Returns:
        uint8 (at most `columns`, h, w, 3), of which the sheet makes the same pixels as of the clip.
    """
    frames = clip[picked(len(clip), columns)]
    shorter, longer = sorted(clip.shape[1:3])
    # Only what is reduced to a size that the sheet leaves as it is: small frames are enlarged when the sheet is drawn.
    if longer <= TILE[1] or shorter * TILE[1] < TILE[0] * longer:
        return frames
    return np.stack([np.asarray(_tile(frame, TILE[0])) for frame in frames])


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
        strips.append(np.full((frames, height, GAP, 3), 255, np.uint8))
    return np.concatenate(strips[:-1], axis=2)


def _tile(frame: np.ndarray, smallest: int) -> Image.Image:
    """Return a frame at the size at which the sheet shows it; see TILE."""
    picture = Image.fromarray(frame)
    factor = -(-smallest // min(picture.size))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((max(smallest, TILE[1]), max(smallest, TILE[1])), Image.Resampling.LANCZOS)
    return picture


def _strip(panel: Panel, columns: int, tile: int) -> Image.Image:
    """Return a panel: its frames side by side under the caption, and beside them the true ones."""
    numbers = picked(len(panel.frames), columns)
    tiles = [_tile(panel.frames[number], tile) for number in numbers]
    for number, picture in zip(numbers, tiles, strict=True):
        if number in panel.marked:
            edge = (0, 0, picture.width - 1, picture.height - 1)
            ImageDraw.Draw(picture).rectangle(edge, outline=KEY, width=BORDER)
    strip = _captioned(panel.caption, tiles, WRONG if panel.wrong else INK)
    if panel.truth is None:
        return strip
    true_tiles = [_tile(panel.truth[number], tile) for number in picked(len(panel.truth), columns)]
    return _beside([strip, _captioned("a true clip", true_tiles, INK)], MARGIN)


def _captioned(caption: str, tiles: list[Image.Image], ink: str) -> Image.Image:
    """Return pictures side by side under a caption, which is wrapped to their width."""
    width = sum(tile.width + GAP for tile in tiles) - GAP
    lines = wrapped(caption, width, LETTERS)
    top = LINE * len(lines)
    strip = Image.new("RGB", (width, top + max(tile.height for tile in tiles)), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw_text(draw, (0, number * LINE), line, LETTERS, ink)
    x = 0
    for tile in tiles:
        strip.paste(tile, (x, top))
        x += tile.width + GAP
    return strip


def _beside(strips: list[Image.Image], gap: int) -> Image.Image:
    """Return strips in one row, `gap` pixels apart, their bottoms aligned: captions of several lines grow upwards."""
    height = max(strip.height for strip in strips)
    row = Image.new("RGB", (sum(strip.width + gap for strip in strips) - gap, height), PAPER)
    x = 0
    for strip in strips:
        row.paste(strip, (x, height - strip.height))
        x += strip.width + gap
    return row
