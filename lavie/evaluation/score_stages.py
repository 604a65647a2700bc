"""The score of the later stages: PSNR against held-out clips, compared with simple ways without a network."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config.stages import STAGES
from ..config.train import TrainConfig
from ..data.feed.batches import Batch
from ..data.feed.loader import fixed_batches
from ..data.feed.share import Share
from ..errors import ConfigError
from ..files import replacing
from ..inference.contact_sheet import Panel
from ..inference.latents import decode, encode
from ..inference.sampler import Sampler
from ..inference.settings import SETTINGS, arguments
from ..inference.video_io import write_sheet
from .psnr import bicubic, blend, psnr, repeat
from .track import Track, untracked

PAIRS = 12
"""Held-out clips on which a stage is compared; of fewer clips several cuts are taken."""
BATCH = 4
"""Clips sampled at once."""
SHOWN = 2
"""Clips in the contact sheet."""
SMALL = 128
"""Pixels: the contact sheet shows frames that are no wider than this clip beside clip, and wider ones one below the
other."""
SHEET_TILE = 96
"""Least pixels of a small frame's shorter side in the contact sheet."""


class Rivals(NamedTuple):
    """One clip as it was, as the network makes it, and as simple ways without a network make it; uint8 (F, H, W, 3)."""

    caption: str
    truth: np.ndarray
    ours: np.ndarray
    alternatives: dict[str, np.ndarray]
    """By the name of the way to do without the network."""
    key: str
    """The name of the sample that the clip is cut from."""
    given: np.ndarray | None = None
    """What the network was given, where that is no part of the clip."""

    @property
    def ways(self) -> dict[str, np.ndarray]:
        """The network's clip and those made without one, by the name of the way."""
        return {"network": self.ours, **self.alternatives}


@dataclass(frozen=True)
class StageScore:
    """How near to the true clips a stage comes."""

    stage: str
    clips: int
    """Number of different held-out samples."""
    cuts: int
    """Number of clips compared: several are cut from a sample, at other times, where there are few samples."""
    size: tuple[int, int, int]
    """Frames, height and width of a clip, which is cut from the middle of its sample's frames."""
    psnr_db: dict[str, float]
    """Mean PSNR over the cuts in dB, of "network" and of each way to do without it."""
    notes: tuple[str, ...] = ()
    """Sentences about what makes the score say less: few samples, samples that cannot be read."""


def score_stage(
    sampler: Sampler,
    config: TrainConfig,
    out: Path,
    *,
    seed: int,
    num: int | None = None,
    track: Track = untracked,
) -> StageScore:
    """Score a later stage on held-out clips of the run's validation data.

    Writes score-<stage>.json and <stage>.png into `out`. Interpolation is compared on clips that have been through the
    autoencoder, with repeated and with blended key frames, so that the score is of motion alone; super-resolution is
    compared with bicubic enlargement.

    Args:
        sampler, config: from `load_stage`.
        out: created if missing.
        seed: of the initial noise.
        num: number of clips; default: PAIRS.
        track: shows the progress over batches of clips.

    Raises:
        ConfigError: the run has no validation data.
    """
    num = PAIRS if num is None else num
    out.mkdir(parents=True, exist_ok=True)
    cases: list[Rivals] = []
    unreadable: dict[str, str] = {}
    for batch in track(_batches(config, num), "sampling"):
        cases += RIVALS[config.stage](sampler, config, batch, _arguments(config, seed))
        unreadable |= {dropped["key"]: dropped["reason"] for dropped in batch["dropped"]}
    cases = cases[:num]

    decibels = [{name: psnr(frames, case.truth) for name, frames in case.ways.items()} for case in cases]
    scores = {name: float(np.mean([of[name] for of in decibels])) for name in decibels[0]}

    # What the score says less by.
    clips = len({case.key for case in cases})
    notes = [f"{key} of data.validation cannot be read: {reason}" for key, reason in unreadable.items()]
    if clips < num:
        notes.append(
            f"data.validation gives {clips} different clips, of which {num} cuts are compared: of so few a mean says "
            f"little, {PAIRS} or more are wanted"
        )
    length, height, width = cases[0].truth.shape[:3]
    score = StageScore(config.stage, clips, len(cases), (length, height, width), scores, tuple(notes))

    _draw_sheet(out / f"{config.stage}.png", config, cases[:SHOWN], decibels, score)
    with replacing(out / f"score-{config.stage}.json") as file:
        values = {"clips": clips, "cuts": len(cases), "psnr_db": scores, "notes": notes}
        file.write_text(json.dumps(values, indent=2) + "\n")
    return score


def _draw_sheet(
    png: Path, config: TrainConfig, cases: Sequence[Rivals], decibels: Sequence[Mapping[str, float]], score: StageScore
) -> None:
    """Draw what the network was given, the true clip, the network's and the simple ways', with the PSNR of each.

    A network that a simple way beats has its caption in red. Key frames have a line around them; of long clips their
    first two intervals are shown.

    Args:
        png: where the picture goes.
        config: the run's.
        cases: those that are shown.
        decibels: the PSNR of each way, for these cases and further ones.
        score: of all cases.
    """
    interval = config.keyframe_interval if STAGES[config.stage].condition == "key_frames" else None
    shown = len(cases[0].truth) if interval is None else min(len(cases[0].truth), 2 * interval + 1)
    keys = range(0, shown, interval) if interval else ()
    told = f", frames 1 to {shown} of {len(cases[0].truth)}" if shown < len(cases[0].truth) else ""
    columns = []
    for case, of in zip(cases, decibels, strict=False):
        truth = f"{case.caption}: as it was" + (", key frames framed" if interval else "") + told
        panels = [Panel(truth, case.truth[:shown], marked=keys)]
        if case.given is not None:
            height, width = case.given.shape[1:3]
            panels.append(Panel(f"what the network is given: {height} x {width}", case.given[:shown]))
        beaten = of["network"] < max(of[name] for name in case.alternatives)
        for name, frames in case.ways.items():
            caption = f"{name}: {of[name]:.1f} dB (mean of {score.cuts}: {score.psnr_db[name]:.1f})"
            panels.append(Panel(caption, frames[:shown], marked=keys, wrong=name == "network" and beaten))
        columns.append(panels)

    # Small clips stand beside one another, so that the picture is about as wide as high.
    if cases[0].truth.shape[2] <= SMALL:
        rows = [panel for row in zip(*columns, strict=True) for panel in row]
        write_sheet(png, rows, columns=shown, across=len(columns), tile=SHEET_TILE)
    else:
        write_sheet(png, [panel for panels in columns for panel in panels], columns=shown)


def _batches(config: TrainConfig, num: int) -> list[Batch]:
    """Return batches of at least `num` clips of the validation data, without moving images."""
    if not config.data.validation:
        raise ConfigError("data.validation is empty: there are no held-out clips to score")
    size = min(num, BATCH)
    return fixed_batches(
        config.data.held_out,
        config.data.validation,
        Share(seed=config.seed, train_batch_size=size),
        num_batches=-(-num // size),
        degradation=config.low_resolution,
    )


def _arguments(config: TrainConfig, seed: int) -> dict[str, Any]:
    """Return the arguments of the stage's sampler: the run's, against the empty negative prompt.

    Windows are the released ones whatever length the run trained on, so that scores of several runs compare.
    """
    kind = SETTINGS[config.stage]
    windows = {name: kind.model_fields[name].default for name in ("window", "overlap")}
    return arguments(kind.of(config, seed=seed, negative_prompt="", prompt_syntax="plain", **windows))


def _interpolated(sampler: Any, config: TrainConfig, batch: Batch, settings: dict[str, Any]) -> list[Rivals]:
    """Return a batch's clips beside those that the network, and simpler ways, make of their key frames."""
    interval, captions = config.keyframe_interval, [row[0] for row in batch["captions"]]
    truth = decode(sampler.autoencoder, encode(sampler.autoencoder, batch["pixels"].numpy(), sampler.device))
    keys = truth[:, ::interval]
    ours = sampler(keys, captions, indices=batch["positions"].tolist(), **settings)
    alternatives = [
        {"key frames repeated": repeat(k, interval), "key frames blended": blend(k, interval)} for k in keys
    ]
    return [Rivals(*case) for case in zip(captions, truth, ours, alternatives, _clip_keys(batch), strict=True)]


def _enlarged(sampler: Any, config: TrainConfig, batch: Batch, settings: dict[str, Any]) -> list[Rivals]:
    """Return a batch's clips beside those that the network, and bicubic enlargement, make of their low resolution."""
    captions, low_res = [row[0] for row in batch["captions"]], batch["low_res"].numpy()
    ours = sampler(low_res, captions, indices=batch["positions"].tolist(), **settings)
    alternatives = [{"bicubic": bicubic(frames, config.degradation.scale)} for frames in low_res]
    truth = batch["pixels"].numpy()
    return [Rivals(*case) for case in zip(captions, truth, ours, alternatives, _clip_keys(batch), low_res, strict=True)]


def _clip_keys(batch: Batch) -> list[str]:
    """Return the name of each row's clip."""
    return [keys[0] for keys in batch["keys"]]


RIVALS: dict[str, Callable[[Any, TrainConfig, Batch, dict[str, Any]], list[Rivals]]] = {
    "interpolation": _interpolated,
    "vsr": _enlarged,
}
"""How each stage is compared: (sampler, config, batch, arguments of the sampler) -> a case for each clip."""
