"""What `lavie generate` tells of long clips: how far each segment drifts, and how well given frames are kept."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from ..console import make_console

if TYPE_CHECKING:
    from ..evaluation.drift import SegmentDrift
    from ..evaluation.judge import Verdict
    from ..inference.cascade import CascadeClip
    from ..inference.text_to_video import TextToVideo

DRIFT = "drift.json"
"""The file in OUT that holds what is measured."""
MOST_DB = 99.0
"""The PSNR that stands for equal frames: JSON has no infinity."""
COLUMNS = {
    "latent_mean_shift": "mean shift",
    "latent_std_ratio": "std ratio",
    "laplacian_ratio": "sharpness ratio",
    "motion_ratio": "motion ratio",
    "joint_jump": "joint jump",
    "colour": "colour right",
    "direction": "direction right",
}
"""The measures of a segment, and the headings of their columns."""


class DriftReport:
    """Measures clips as they are finished, then writes and prints what it found."""

    def __init__(self, base: "TextToVideo", *, judge: bool) -> None:
        """Measure what the base stage of a cascade made.

        Args:
            base: its sampler, of which the autoencoder is used.
            judge: whether the judge of the rendered set looks at each segment.
        """
        self.base, self.judge = base, judge
        self._alike: dict[str, _Alike] = {}

    def measure(self, clip: "CascadeClip") -> None:
        """Measure one clip that is drawn."""
        from ..evaluation.drift import asked, measure_drift
        from ..evaluation.psnr import psnr
        from ..inference.latents import encode
        from ..inference.segments import cut_segments

        settings, frames, start = clip.settings.base, clip.frames["base"], clip.start
        cut = {"method": settings.method, "window": settings.window, "overlap": settings.overlap}
        alike = self._alike.setdefault(json.dumps({**cut, "frames": len(frames)}), _Alike(cut))
        entry: dict[str, Any] = {"name": f"{clip.number:05d}", "prompt": clip.prompt}
        if start is not None and start.given is not None:
            given = start.given.at(len(frames))
            entry["given_psnr_db"] = [
                min(round(psnr(frames[place], pixels), 2), MOST_DB) for place, pixels in given.items()
            ]
        overlap = min(max(1, settings.overlap), max(1, settings.window - 1))
        segments = cut_segments(settings.num_frames, max(settings.window, 2), overlap)
        if len(segments) > 1 or self.judge:
            latents = encode(self.base.autoencoder, frames[None], self.base.device, settings.decode_tile)
            drift = measure_drift(frames, latents[0].cpu().numpy(), segments, judged=self.judge)
            texts = clip.texts("base")
            prompts = [texts[min(number, len(texts) - 1)] for number in range(len(drift))]
            entry["segments"] = [asdict(part) | {"prompt": text} for part, text in zip(drift, prompts, strict=True)]
            alike.drifts.append(drift)
            if self.judge:
                alike.truths.append([asked(text) for text in prompts])
        alike.clips.append(entry)

    def write(self, out: Path) -> None:
        """Print the means over clips, and write all numbers into OUT/drift.json; nothing where nothing was measured.

        Clips whose own settings cut them otherwise than the first have a table, and an object in "others", of theirs.
        """
        from ..evaluation.drift import mean_drift
        from ..files import replacing

        clips = [clip for alike in self._alike.values() for clip in alike.clips]
        if not any("segments" in clip or "given_psnr_db" in clip for clip in clips):
            return
        reports = [
            alike.cut
            | {"mean": mean_drift(alike.drifts, alike.truths or None) if alike.drifts else [], "clips": alike.clips}
            for alike in self._alike.values()
        ]
        report = reports[0] | ({"others": reports[1:]} if len(reports) > 1 else {})
        with replacing(out / DRIFT) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
        kept = [value for clip in clips for value in clip.get("given_psnr_db", [])]
        if kept:
            typer.echo(f"given frames: PSNR {sum(kept) / len(kept):.1f} dB, the least {min(kept):.1f} dB")
        for found in reports:
            if found["mean"]:
                _print(found["mean"], len(found["clips"]))


@dataclass
class _Alike:
    """Clips that are cut into segments in the same way."""

    cut: dict[str, Any]
    """Method, window and overlap."""
    clips: list[dict[str, Any]] = field(default_factory=list)
    """What is written of each."""
    drifts: "list[list[SegmentDrift]]" = field(default_factory=list)
    """The segments of each, if it has several or is judged."""
    truths: "list[list[Verdict]]" = field(default_factory=list)
    """What each segment of each should show, if it is judged."""


def require_rendered_prompts(prompts: Iterable[str]) -> None:
    """Raise ConfigError unless all prompts are captions of the rendered set, which the judge knows."""
    from ..evaluation.drift import asked

    for prompt in prompts:
        asked(prompt)


def _print(means: list[dict[str, Any]], clips: int) -> None:
    """Print a row for each segment."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in means)]
    table = Table(
        "segment", "frames", *(COLUMNS[name] for name in columns), title=f"Drift from segment 1, {clips} clips"
    )
    for row in means:
        cells = [_cell(name, row.get(name)) for name in columns]
        table.add_row(str(row["segment"]), f"{row['begin']} .. {row['stop'] - 1}", *cells)
    make_console().print(table)


def _cell(name: str, value: float | None) -> str:
    """Return the text of a measure: shares in percent, a dash for none."""
    if value is None:
        return "-"
    return f"{value:.0%}" if name in ("colour", "direction") else f"{value:.2f}"
