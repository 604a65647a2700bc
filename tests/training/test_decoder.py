"""A run whose clips DALI decodes has the losses of one with PyAV."""

import json
from pathlib import Path

import numpy as np
import pytest

from lavie.config.train import TrainConfig
from lavie.data.decoders import choice as decoders
from lavie.data.media.encode import encode_vp9
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.testing import LOSS_RTOL, run_distributed
from tests.training.runs import make_config

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


def with_decoder(folder: Path, decoder: str) -> TrainConfig:
    return make_config(
        folder,
        folder / decoder,
        data={"num_images": 0, "frame_stride": 2, "num_workers": 1, "decoder": decoder},
        prediction_type="v_prediction",  # its target holds the clip
        max_train_steps=STEPS,
        lr_warmup_steps=0,
    )


def losses(folder: Path, decoder: str) -> np.ndarray:
    """Return the losses of a run on one rank, in which this decoder decodes."""
    config = with_decoder(folder, decoder)
    run_distributed(train, 1, config, "configs/zero3.json")
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return np.array([record["loss"] for record in map(json.loads, lines) if "loss" in record])


@pytest.mark.slow
@requires_dali
def test_losses_are_those_of_pyav(tmp_path):
    entries = (CaptionedFile(f"v{i}", f"v{i}", lambda i=i: encode_vp9(discs(i), 8), f"disc {i}") for i in range(9))
    pack_files(entries, tmp_path / "train", num_frames=4, frame_stride=2)
    pyav, dali = losses(tmp_path, "pyav"), losses(tmp_path, "dali")
    assert len(pyav) == STEPS
    # At the source's size, pixels are equal but for the rounding of their normalisation.
    np.testing.assert_allclose(dali, pyav, rtol=LOSS_RTOL)
