"""Contact sheets of the clips nearest a threshold, on both sides: what a threshold costs is seen, not guessed."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from ...config.curate_select import Rule
from ...data.prepare.sandbox import Sandbox
from ...errors import DataError
from ...labels import draw_text
from ..pictures import read_pictures
from ..unit import Unit

if TYPE_CHECKING:
    import pyarrow as pa

COUNT = 16
"""Clips on each side of a threshold."""
ACROSS, TILE, LINE, GAP = 8, (160, 90), 16, 6
"""Pictures in a row; width and height of one, pixels of a line of text and between pictures."""
PAPER, INK, DROPPED = "#ffffff", "#141414", "#c1121f"
"""The colours of the sheet, of what is kept, and of what is dropped."""


def thresholds(rules: Sequence[Rule]) -> list[tuple[Rule, str, float]]:
    """Return each bound of a set of rules: the rule, "min" or "max", and the value."""
    bounds = [(rule, side, getattr(rule, side)) for rule in rules for side in ("min", "max")]
    return [(rule, side, float(value)) for rule, side, value in bounds if value is not None]


def nearest(values: np.ndarray, bound: float, side: str, count: int = COUNT) -> tuple[list[int], list[int]]:
    """Return the numbers of the values nearest a bound that it drops, and of those that it keeps, the nearest first.

    Args:
        values: float64 (n,); NaN where there is none.
        bound: the threshold.
        side: "min" if smaller values are dropped, "max" if larger ones are.
        count: at most so many of each.
    """
    dropped = values < bound if side == "min" else values > bound
    order = np.argsort(np.abs(values - bound), kind="stable")
    order = order[~np.isnan(values[order])]
    out = [int(i) for i in order if dropped[i]][:count]
    kept = [int(i) for i in order if not dropped[i]][:count]
    return out, kept


class Pictures:
    """The middle frames of clips, each decoded once in the sandbox."""

    def __init__(self, units: Sequence[Unit]) -> None:
        """Decode nothing yet."""
        self._units = {unit.name: unit for unit in units}
        self._found: dict[str, Image.Image | None] = {}
        self._rows: dict[str, dict[str, dict[str, Any]]] = {}
        self._sandbox = Sandbox()

    def close(self) -> None:
        """End the child process."""
        self._sandbox.close()

    def of(self, unit: str, clip: str) -> Image.Image | None:
        """Return the middle frame of a clip, at most as large as a tile; None if it cannot be decoded."""
        if clip not in self._found:
            self._found[clip] = self._read(unit, clip)
        return self._found[clip]

    def _read(self, unit: str, clip: str) -> Image.Image | None:
        """Decode the middle frame of a clip."""
        if unit not in self._rows:
            rows = self._units[unit].read("cut", ["clip", "offset", "bytes", "sha256", "frames"]).to_pylist()
            self._rows[unit] = {row["clip"]: row for row in rows}
        row = self._rows[unit].get(clip)
        if row is None:  # cut anew since it was selected
            return None
        try:
            data = self._units[unit].clip_bytes(row)
            frame = self._sandbox.call(read_pictures, data, [row["frames"] // 2], row["frames"], None)[0]
        except (DataError, OSError):
            return None
        picture = Image.fromarray(frame)
        picture.thumbnail(TILE)
        return picture


def draw_nearest(table: "pa.Table", rules: Sequence[Rule], units: Sequence[Unit], folder: Path) -> dict[str, Path]:
    """Draw a sheet for each threshold; return the files by what they show.

    Args:
        table: the rows of a selection.
        rules: the rules that hold.
        units: those that the clips are in.
        folder: where the sheets go.
    """
    sheets = {}
    names = table["unit"].to_pylist(), table["clip"].to_pylist()
    with closing(Pictures(units)) as pictures:
        for rule, side, bound in thresholds(rules):
            column = table[rule.column].cast("float64").to_numpy(zero_copy_only=False)
            dropped, kept = nearest(np.asarray(column, np.float64), bound, side)
            if not dropped and not kept:
                continue
            path = folder / f"nearest-{rule.column}-{side}.png"
            rows = [(DROPPED, f"{rule.name} drops, nearest first", dropped), (INK, "and keeps, nearest first", kept)]
            _draw(path, rows, column, names, pictures)
            sheets[f"{rule.name}: {'least' if side == 'min' else 'largest'} value {bound:g}"] = path
    return sheets


def _draw(
    path: Path,
    rows: Sequence[tuple[str, str, Sequence[int]]],
    values: np.ndarray,
    names: tuple[Sequence[str], Sequence[str]],
    pictures: Pictures,
) -> None:
    """Draw rows of clips, each under a title and with its value below it."""
    wide, high = TILE[0] + GAP, TILE[1] + LINE + GAP
    heights = [LINE + GAP + high * -(-len(numbers) // ACROSS) for _, _, numbers in rows]
    sheet = Image.new("RGB", (ACROSS * wide + GAP, sum(heights) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for (color, title, numbers), height in zip(rows, heights, strict=True):
        draw_text(draw, (GAP, top), title if numbers else f"{title}: none", LINE - 3, color)
        for i, number in enumerate(numbers):
            x, y = GAP + wide * (i % ACROSS), top + LINE + GAP + high * (i // ACROSS)
            picture = pictures.of(names[0][number], names[1][number])
            if picture is not None:
                sheet.paste(picture, (x, y))
            told = f"{values[number]:.4g}" + ("" if picture else " (cannot be decoded)")
            draw_text(draw, (x, y + TILE[1]), told, LINE - 4, color)
        top += height
    sheet.save(path)
