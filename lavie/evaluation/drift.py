"""How far a long clip drifts from its first segment: numbers without learned weights, and the demo's judge.

Clips that are made segment by segment tend to saturate, to blur, or to come to rest, and may jump where two segments
meet. Each is measured against the first segment, which is what the network draws by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data.prepare.synthetic import COLOURS, DIRECTIONS
from ..errors import ConfigError
from ..inference.segments import Segment
from .judge import Verdict, judge_clip
from .rendered import rendered_captions


@dataclass(frozen=True)
class SegmentDrift:
    """What is measured of one segment. Ratios are None where the first segment has nothing to compare with."""

    begin: int
    """The first frame of the segment, in the clip; given frames of the segment before count."""
    stop: int
    """One behind its last frame."""
    latent_mean_shift: float
    """How far the mean of the latents has moved, in standard deviations of the first segment: the root of the mean
    square over channels. 0 is none."""
    latent_std_ratio: float | None
    """Standard deviation of the latents over that of the first segment, the mean over channels: above 1 the clip
    saturates, below 1 it fades."""
    laplacian_ratio: float | None
    """Variance of the Laplacian of the grey levels over that of the first segment: below 1 the clip blurs."""
    motion_ratio: float | None
    """Mean absolute difference of neighbouring frames over that of the first segment: below 1 the clip comes to
    rest."""
    joint_jump: float | None
    """Mean absolute difference of the two frames where the segment begins to add, over the median of all neighbouring
    frames of the clip: 1 is no jump. None for the first segment."""
    colour: str | None = None
    """What the judge sees, if asked."""
    direction: str | None = None
    """What the judge sees, if asked."""


def measure_drift(
    frames: np.ndarray, latents: np.ndarray, segments: Sequence[Segment], *, judged: bool = False
) -> list[SegmentDrift]:
    """Return what is measured of each segment of a clip.

    Args:
        frames: uint8 (F, H, W, 3).
        latents: float (C, F, h, w), those of `frames`.
        segments: of the clip; the first one is the measure of the others.
        judged: whether the judge of the rendered set looks at each segment.
    """
    differences = np.array([_difference(frames[i], frames[i + 1]) for i in range(len(frames) - 1)])
    median = float(np.median(differences)) if len(differences) else 0.0
    first = segments[0]
    base = _statistics(latents[:, first.begin : first.stop])
    sharp = _sharpness(frames[first.begin : first.stop])
    motion = _mean(differences[first.begin : first.stop - 1])

    found = []
    for segment in segments:
        part = slice(segment.begin, segment.stop)
        mean, std = _statistics(latents[:, part])
        verdict = judge_clip(frames[part]) if judged else Verdict(None, None)
        found.append(
            SegmentDrift(
                segment.begin,
                segment.stop,
                latent_mean_shift=float(np.sqrt(np.mean(((mean - base[0]) / np.maximum(base[1], 1e-9)) ** 2))),
                latent_std_ratio=_mean_ratio(std, base[1]),
                laplacian_ratio=_ratio(_sharpness(frames[part]), sharp),
                motion_ratio=_ratio(_mean(differences[segment.begin : segment.stop - 1]), motion),
                joint_jump=_ratio(float(differences[segment.new - 1]), median) if segment.new else None,
                colour=verdict.colour,
                direction=verdict.direction,
            )
        )
    return found


def asked(prompt: str) -> Verdict:
    """Return the colour and the direction that a caption of the rendered set asks for; None where it names none.

    Raises:
        ConfigError: it is no such caption.
    """
    if prompt not in rendered_captions():
        raise ConfigError(
            f"--judge: {prompt[:80]!r} is no caption of the rendered set, whose colours and directions alone the judge "
            "knows ('a red circle moving right'): leave --judge out"
        )
    words = prompt.split()
    colour = next((word for word in words if word in COLOURS), None)
    return Verdict(colour, next((word for word in words if word in DIRECTIONS), None))


def mean_drift(
    clips: Sequence[Sequence[SegmentDrift]], truths: Sequence[Sequence[Verdict]] | None = None
) -> list[dict[str, Any]]:
    """Return for each segment the mean over clips of what is measured, by name.

    Args:
        clips: the segments of each clip; all clips have as many.
        truths: what each segment of each clip should show; with it the shares of right verdicts are returned, too, as
            "colour" and "direction": None where nothing was asked for.
    """
    rows = []
    for number in range(len(clips[0])):
        parts = [asdict(segments[number]) for segments in clips]
        row: dict[str, Any] = {"segment": number + 1, "begin": parts[0]["begin"], "stop": parts[0]["stop"]}
        for name in ("latent_mean_shift", "latent_std_ratio", "laplacian_ratio", "motion_ratio", "joint_jump"):
            values = [part[name] for part in parts if part[name] is not None]
            row[name] = float(np.mean(values)) if values else None
        if truths is not None:
            for name in ("colour", "direction"):
                row[name] = _share(parts, [getattr(of_clip[number], name) for of_clip in truths], name)
        rows.append(row)
    return rows


def _share(parts: Sequence[Mapping[str, Any]], wanted: Sequence[str | None], name: str) -> float | None:
    """Return the share of verdicts that are as wanted, among those that are asked for; None without any."""
    right = [part[name] == truth for part, truth in zip(parts, wanted, strict=True) if truth is not None]
    return sum(right) / len(right) if right else None


def _statistics(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel of latents (C, F, h, w): float64 (C,) each."""
    flat = latents.reshape(len(latents), -1).astype(np.float64)
    return flat.mean(1), flat.std(1)


def _sharpness(frames: np.ndarray) -> float:
    """Return the mean over frames uint8 (F, H, W, 3) of the variance of the Laplacian of their grey levels."""
    grey = frames.astype(np.float32).mean(-1)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return float((around - 4 * inner).var(axis=(1, 2)).mean())


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean absolute difference of two frames, in grey levels."""
    return float(np.abs(a.astype(np.int16) - b).mean())


def _mean(values: np.ndarray) -> float:
    """Return a mean; 0 of nothing, as of the differences within a single frame."""
    return float(values.mean()) if len(values) else 0.0


def _ratio(value: float, base: float) -> float | None:
    """Return value over base; None where the base is 0."""
    return value / base if base > 0 else None


def _mean_ratio(values: np.ndarray, bases: np.ndarray) -> float | None:
    """Return the mean of the ratios whose base is not 0; None without any."""
    there = bases > 0
    return float((values[there] / bases[there]).mean()) if there.any() else None
