"""The score of the later stages: PSNR against held-out clips, compared with simple ways without a network."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config.train import TrainConfig
from ..data.feed.batches import Batch
from ..data.feed.loader import fixed_batches
from ..data.feed.share import Share
from ..errors import ConfigError
from ..files import replacing
from ..inference.latents import decode, encode
from ..inference.sampler import Sampler
from ..inference.settings import SETTINGS, arguments
from ..inference.video_io import write_sheet
from .psnr import bicubic, blend, psnr, repeat
from .track import Track, untracked

PAIRS = 12
"""Held-out clips on which a stage is compared."""
BATCH = 4
"""Clips sampled at once."""
SHOWN = 3
"""Clips in the contact sheet."""


class Rivals(NamedTuple):
    """One clip as it was, as the network makes it, and as simple ways without a network make it; uint8 (F, H, W, 3)."""

    caption: str
    truth: np.ndarray
    ours: np.ndarray
    alternatives: dict[str, np.ndarray]
    """By the name of the way to do without the network."""


@dataclass(frozen=True)
class StageScore:
    """How near to the true clips a stage comes."""

    stage: str
    clips: int
    """Number of clips compared."""
    psnr_db: dict[str, float]
    """Mean PSNR over the clips in dB, of "network" and of each way to do without it."""


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
    for batch in track(_batches(config, num), "sampling"):
        cases += RIVALS[config.stage](sampler, config, batch, _arguments(config, seed))
    cases = cases[:num]

    scores = {"network": float(np.mean([psnr(case.ours, case.truth) for case in cases]))}
    for name in cases[0].alternatives:
        scores[name] = float(np.mean([psnr(case.alternatives[name], case.truth) for case in cases]))

    rows = []
    for case in cases[:SHOWN]:
        rows += [(f"{case.caption}: as it was", case.truth), ("by the network", case.ours), *case.alternatives.items()]
    write_sheet(out / f"{config.stage}.png", rows)
    with replacing(out / f"score-{config.stage}.json") as file:
        file.write_text(json.dumps({"clips": len(cases), "psnr_db": scores}, indent=2) + "\n")
    return StageScore(config.stage, len(cases), scores)


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
    return arguments(kind.of(config, seed=seed, negative_prompt="", **windows))


def _interpolated(sampler: Any, config: TrainConfig, batch: Batch, settings: dict[str, Any]) -> list[Rivals]:
    """Return a batch's clips beside those that the network, and simpler ways, make of their key frames."""
    interval, captions = config.keyframe_interval, [row[0] for row in batch["captions"]]
    truth = decode(sampler.autoencoder, encode(sampler.autoencoder, batch["pixels"].numpy(), sampler.device))
    keys = truth[:, ::interval]
    ours = sampler(keys, captions, indices=batch["positions"].tolist(), **settings)
    alternatives = [
        {"key frames repeated": repeat(k, interval), "key frames blended": blend(k, interval)} for k in keys
    ]
    return [Rivals(*case) for case in zip(captions, truth, ours, alternatives, strict=True)]


def _enlarged(sampler: Any, config: TrainConfig, batch: Batch, settings: dict[str, Any]) -> list[Rivals]:
    """Return a batch's clips beside those that the network, and bicubic enlargement, make of their low resolution."""
    captions, low_res = [row[0] for row in batch["captions"]], batch["low_res"].numpy()
    ours = sampler(low_res, captions, indices=batch["positions"].tolist(), **settings)
    alternatives = [{"bicubic": bicubic(frames, config.degradation.scale)} for frames in low_res]
    return [Rivals(*case) for case in zip(captions, batch["pixels"].numpy(), ours, alternatives, strict=True)]


RIVALS: dict[str, Callable[[Any, TrainConfig, Batch, dict[str, Any]], list[Rivals]]] = {
    "interpolation": _interpolated,
    "vsr": _enlarged,
}
"""How each stage is compared: (sampler, config, batch, arguments of the sampler) -> a case for each clip."""
