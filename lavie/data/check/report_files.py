"""The files of a check's report: check.json, statistics.png and, if samples were looked at, sheet.png."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .figures import draw_statistics
from .report import CheckReport

ON_SHEET = 16
"""Number of samples that the contact sheet shows."""

Captioned = tuple[str, np.ndarray]
"""A caption and its frames, uint8 (F, H, W, 3)."""


def write_report(report: CheckReport, out: Path, contact_sheet: Callable[[list[Captioned]], np.ndarray]) -> list[Path]:
    """Write the report into the folder `out` and return the paths of its files.

    Args:
        report: the findings.
        out: an existing folder; a contact sheet of an earlier report is removed.
        contact_sheet: draws captioned clips as one picture, uint8 (H, W, 3). It is handed in because it belongs to
            inference, which stands above the data.
    """
    facts, statistics, sheet = out / "check.json", out / "statistics.png", out / "sheet.png"
    facts.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_statistics(report, statistics)

    # Videos and images get a sheet each, one below the other, because clips take a row and images share rows.
    sheet.unlink(missing_ok=True)
    captioned: dict[str, list[Captioned]] = {"video": [], "image": []}
    for sample, frames in report.decoded[:ON_SHEET]:
        captioned[sample.kind].append((f"{sample.key}: {sample.caption}", frames))
    pictures = [contact_sheet(clips) for clips in captioned.values() if clips]
    if not pictures:
        return [facts, statistics]
    Image.fromarray(_stacked(pictures)).save(sheet)
    return [facts, statistics, sheet]


def _stacked(pictures: list[np.ndarray]) -> np.ndarray:
    """Return pictures, uint8 (H_i, W_i, 3), one below the other, padded with white to the widest one."""
    width = max(picture.shape[1] for picture in pictures)
    padded = []
    for picture in pictures:
        missing = width - picture.shape[1]
        padded.append(np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=255))
    return np.concatenate(padded)
