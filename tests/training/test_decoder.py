"""A run whose clips DALI decodes follows the run of PyAV's, as closely as their pixels do."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lavie.config import TrainConfig
from lavie.data import decoders
from lavie.data.decoders import normalised
from lavie.data.encode import encode_vp9
from lavie.data.loader import build_loader
from lavie.data.pack import pack_entries
from lavie.data.sources import Entry
from lavie.testing import run_distributed

requires_dali = pytest.mark.skipif(decoders.missing_dali() is not None, reason="DALI is not installed")

STEPS = 6


def discs(seed: int) -> np.ndarray:
    """A coloured disc that crosses a grey frame: uint8 (16, 32, 32, 3)."""
    y, x = np.mgrid[:32, :32]
    colour = np.array([(200, 60, 60), (60, 180, 80), (70, 80, 220)])[seed % 3]
    frames = []
    for t in range(16):
        inside = (x - 2 * t) ** 2 + (y - 8 - seed) ** 2 < 60
        frames.append(np.where(inside[..., None], colour, 110))
    return np.stack(frames).astype(np.uint8)


def train(config: TrainConfig, deepspeed_json: str) -> None:
    from lavie.training.trainer import Trainer

    trainer = Trainer(config, deepspeed_json)
    trainer.fit()
    assert type(trainer.batches).__name__ == ("DecodedBatches" if config.data.decoder == "dali" else "Batches")


def make_config(folder: Path, decoder: str) -> TrainConfig:
    return TrainConfig.model_validate(
        dict(
            output_dir=str(folder / decoder),
            model=dict(
                in_channels=3,
                out_channels=3,
                block_out_channels=(16, 32),
                cross_attention=(True, False),
                layers_per_block=1,
                num_attention_heads=1,
                cross_attention_dim=16,
                norm_num_groups=4,
                rotary_dim=8,
            ),
            autoencoder=dict(type="patch", patch_size=4, coefficients=1, scaling_factor=0.25),
            text_encoder=dict(type="hash", max_length=6),
            data=dict(
                train=str(folder / "data"),
                num_frames=4,
                num_images=0,
                height=32,
                width=32,
                frame_stride=2,
                num_workers=1,
                decoder=decoder,
            ),
            prediction_type="v_prediction",  # its target holds the clip
            max_train_steps=STEPS,
            train_batch_size=2,
            learning_rate=1e-3,
            max_grad_norm=0.5,
        )
    )


def losses(folder: Path, decoder: str) -> np.ndarray:
    """Of a run on one rank."""
    config = make_config(folder, decoder)
    run_distributed(train, 1, config, "configs/zero3.json")
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return np.array([record["loss"] for record in map(json.loads, lines) if "loss" in record])


def patch_means(folder: Path, decoder: str) -> torch.Tensor:
    """The means of 4 x 4 pixels, in [-1, 1], of each step: (STEPS, ...). The latents, at this scaling_factor."""
    config = make_config(folder, decoder)
    shares = dict(train_batch_size=2, gradient_accumulation_steps=1, rank=0, world_size=1)
    loader = build_loader(config.data, config.data.train, seed=config.seed, **shares)
    steps = []
    for batch in itertools.islice(loader, STEPS):
        pixels = batch["pixels"]
        pixels = normalised(pixels) if pixels.dtype == torch.uint8 else pixels
        steps.append(torch.nn.functional.avg_pool2d(pixels.flatten(0, 1), 4))
    loader.close()
    return torch.stack(steps)


@requires_dali
def test_losses_are_those_of_pyav(tmp_path):
    entries = (Entry(f"v{i}", f"v{i}", lambda i=i: encode_vp9(discs(i), 8), f"disc {i}") for i in range(9))
    pack_entries(entries, tmp_path / "data", num_frames=4, frame_stride=2)
    apart = patch_means(tmp_path, "pyav") - patch_means(tmp_path, "dali")
    d = apart.square().mean(tuple(range(1, apart.ndim))).sqrt().max().item()
    assert 0 < d < decoders.MEAN / 127.5
    pyav, dali = losses(tmp_path, "pyav"), losses(tmp_path, "dali")
    assert len(pyav) == len(dali) == STEPS
    # The square root of the loss is the root mean square of output - target. The target moves by d at most; the output
    # is allowed as much.
    assert (np.abs(np.sqrt(dali) - np.sqrt(pyav)) < 2 * d).all()
    assert (dali != pyav).any()
