"""Objectives of small networks without a run around them, and batches for them."""

from typing import Any

import numpy as np
import torch

from lavie.config.train import TrainConfig
from lavie.diffusion.schedule import NoiseSchedule
from lavie.models.autoencoder import build_autoencoder
from lavie.models.text_encoder import build_text_encoder
from lavie.training.objective import Objective


def make_objective(**changes: Any) -> Objective:
    """Return the objective of a small run with some keys of its config changed: 3 frames and 2 images of 8 x 8."""
    values: dict[str, Any] = {
        "output_dir": "unused",
        "model": {"in_channels": 12, "out_channels": 12, "cross_attention_dim": 16},
        "autoencoder": {"type": "patch", "patch_size": 2},
        "text_encoder": {"type": "hash", "max_length": 4},
        "data": {"train": "unused", "frame_stride": 1, "num_frames": 3, "num_images": 2, "height": 8, "width": 8},
        "max_train_steps": 1,
    }
    return build_objective(TrainConfig.model_validate(values | changes))


def build_objective(config: TrainConfig) -> Objective:
    """Return the objective of a run on the CPU, in float32, without pretrained encoders."""
    return Objective(
        config,
        build_autoencoder(config.autoencoder, None),
        build_text_encoder(config.text_encoder, config.model.cross_attention_dim, None),
        NoiseSchedule.from_config(config),
        torch.device("cpu"),
        torch.float32,
    )


def make_batch(positions: list[int]) -> dict[str, Any]:
    """Return a batch for `make_objective`, with random pixels that depend on the positions alone."""
    pixels = [np.random.default_rng(p).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8) for p in positions]
    return {
        "pixels": torch.from_numpy(np.stack(pixels)),
        "captions": [[f"clip {p}", f"image {p} a", f"image {p} b"] for p in positions],
        "positions": torch.tensor(positions),
        "keys": [["k"] * 3 for _ in positions],
        "dropped": [],
    }
