"""Judging the later stages by what they must beat: PSNR against held-out clips whose every pixel is known."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
from rich.progress import track

from ..config.train import TrainConfig
from ..data.feed.loader import Batch, fixed_batches
from ..data.feed.share import Share
from ..errors import ConfigError
from ..files import replacing
from ..inference.frames import decode, encode
from ..inference.interpolation import Interpolator
from ..inference.sampler import Sampler
from ..inference.super_resolution import SuperResolver
from ..inference.video_io import write_sheet
from .psnr import bicubic, blend, psnr, repeat

BATCH, SHOWN = 4, 3
"""Clips sampled at once, and clips in the picture."""


class Rivals(NamedTuple):
    """One clip as it was, as the network makes it, and as it comes out without one; uint8 (F, H, W, 3) each."""

    caption: str
    truth: np.ndarray
    ours: np.ndarray
    others: dict[str, np.ndarray]


def compare(sampler: Sampler, config: TrainConfig, out: Path, num: int, seed: int) -> None:
    """Score `num` held-out clips of the run's validation data: score-<stage>.json and <stage>.png in `out`.

    Interpolation is compared on clips that have been through the autoencoder, with repeated and with blended key
    frames, so that the score is of motion alone; super-resolution with bicubic enlargement.
    """
    out.mkdir(parents=True, exist_ok=True)
    cases = [
        case
        for batch in track(_batches(config, num), description="sampling", transient=True)
        for case in _rivals(sampler, config, batch, seed)
    ][:num]
    scores = {"network": float(np.mean([psnr(case.ours, case.truth) for case in cases]))}
    for name in cases[0].others:
        scores[name] = float(np.mean([psnr(case.others[name], case.truth) for case in cases]))
    rows = []
    for case in cases[:SHOWN]:
        rows += [(f"{case.caption}: as it was", case.truth), ("by the network", case.ours), *case.others.items()]
    write_sheet(out / f"{config.stage}.png", rows)
    with replacing(out / f"score-{config.stage}.json") as file:
        file.write_text(json.dumps({"clips": len(cases), "psnr_db": scores}, indent=2) + "\n")
    line = ", ".join(f"{name} {value:.2f} dB" for name, value in scores.items())
    typer.echo(f"{config.stage}: PSNR of {len(cases)} held-out clips: {line}")


def _batches(config: TrainConfig, num: int) -> list[Batch]:
    """Clips of the validation data, BATCH at a time; no moving images."""
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


def _rivals(sampler: Sampler, config: TrainConfig, batch: Batch, seed: int) -> Iterator[Rivals]:
    truth, captions = batch["pixels"].numpy(), [row[0] for row in batch["captions"]]
    sampling = config.sampling
    settings: dict[str, Any] = dict(
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        scheduler=sampling.scheduler,
        seed=seed,
        indices=batch["positions"].tolist(),
        negative_prompt="",
    )
    if isinstance(sampler, Interpolator):
        interval = config.keyframe_interval
        truth = decode(sampler.autoencoder, encode(sampler.autoencoder, truth, sampler.device))
        keys = truth[:, ::interval]
        ours = sampler(keys, captions, **settings)
        others = [{"key frames repeated": repeat(k, interval), "key frames blended": blend(k, interval)} for k in keys]
    else:
        assert isinstance(sampler, SuperResolver)
        low_res = batch["low_res"].numpy()
        ours = sampler(low_res, captions, noise_level=sampling.noise_level, **settings)
        others = [{"bicubic": bicubic(frames, config.degradation.scale)} for frames in low_res]
    yield from map(Rivals, captions, truth, ours, others)
