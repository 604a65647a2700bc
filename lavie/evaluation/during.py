"""What is measured of a run's samples while it trains: distances to the held-out clips, and motion.

The captions of the held-out clips are drawn by the network as it is, each with noise of its own, the same at every
evaluation. The clips' features are measured once and kept in the run's folder.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..config.train import TrainConfig
from ..data.feed.loader import fixed_batches
from ..data.feed.share import Share
from ..distributed import gather_objects, rank, world_size
from ..errors import ConfigError
from ..inference.load import default_device
from ..inference.schedulers import require_sampling
from ..inference.settings import BaseSettings, arguments
from ..inference.text_to_video import TextToVideo
from .fvd.distance import frechet, mmd, spread
from .fvd.extractors import Extractor, I3DLogits, Scripted
from .fvd.preprocess import apply_steps
from .fvd.protocol import SQUARE

FIRST_INDEX = 1 << 20
"""The number of the first sample's noise: far from those of the validation prompts."""


class TrainingMeasure:
    """Measures the samples of a run: called with its network and objective, by all ranks together."""

    def __init__(self, config: TrainConfig) -> None:
        """Load what the section `eval` names, before anything is trained.

        Raises:
            LavieError: the weights cannot be read, or the clips are too short for them.
        """
        require_sampling(config)
        self.config = config
        device = default_device()
        wanted = config.eval
        self._extractor: Extractor
        if wanted.weights:
            if not Path(wanted.weights).is_file():
                raise ConfigError(f"eval.weights is {wanted.weights}: no such file")
            self._extractor = I3DLogits(Path(wanted.weights), device)
        else:
            assert wanted.extractor is not None, "EvalConfig refuses steps without something to measure by"
            self._extractor = Scripted(Path(wanted.extractor), device)
        self._extractor.check(config.data.num_frames)
        self._captions: dict[int, str] = {}  # of this rank's clips, by their places among those of all ranks
        self._real: np.ndarray | None = None
        self._real_motion = 0.0

    def __call__(self, network: Any, objective: Any) -> dict[str, float]:
        """Draw the captions of the held-out clips, and return what is measured of them, by name."""
        if self._real is None:
            self._measure_held_out()
        assert self._real is not None
        sampler = TextToVideo(network, objective.autoencoder, objective.text_encoder, objective.schedule)
        settings = BaseSettings.of(self.config)
        rows = {}
        for place, caption in self._captions.items():
            [frames] = sampler([caption], indices=[FIRST_INDEX + place], **arguments(settings))
            rows[place] = self._row(frames)

        fake, motion = _of_all_ranks(rows)
        kernel = spread(mmd, self._real, fake, self.config.seed)
        return {
            "eval_clips": len(fake),
            "eval_fvd": frechet(self._real, fake),
            "eval_kvd": kernel.value,
            "eval_kvd_error": kernel.error,
            "eval_motion": motion,
            "eval_motion_held_out": self._real_motion,
        }

    def _measure_held_out(self) -> None:
        """Read this rank's held-out clips, and measure those of all ranks."""
        config = self.config
        share = Share(
            seed=config.seed,
            train_batch_size=config.train_batch_size,
            gradient_accumulation_steps=1,
            rank=rank(),
            world_size=world_size(),
        )
        data = config.data.held_out
        count = -(-config.eval.num_clips // (config.train_batch_size * world_size()))
        rows = {}
        for batch in fixed_batches(data, data.validation, share, num_batches=count):
            places = batch["positions"].tolist()
            for place, pixels, captions in zip(places, batch["pixels"], batch["captions"], strict=True):
                rows[place] = self._row(pixels[: data.num_frames].numpy())
                self._captions[place] = captions[0]
        self._real, self._real_motion = _of_all_ranks(rows)

    def _row(self, frames: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the features (D,) and the motion of a clip, uint8 (F, H, W, 3)."""
        return self._extractor(apply_steps(frames, [SQUARE])[None]).numpy()[0], _motion(frames)


def _motion(frames: np.ndarray) -> float:
    """Return the mean absolute difference of successive frames, in levels of 255: a frozen clip has 0."""
    return float(np.abs(np.diff(frames.astype(np.float64), axis=0)).mean()) if len(frames) > 1 else 0.0


def _of_all_ranks(rows: dict[int, tuple[np.ndarray, float]]) -> tuple[np.ndarray, float]:
    """Return the features of all ranks' clips by their places, float64 (n, D), and their mean motion. Collective."""
    joined: dict[int, tuple[np.ndarray, float]] = {}
    for part in gather_objects(rows):
        joined |= part
    ordered = [joined[place] for place in sorted(joined)]
    return np.stack([features for features, _ in ordered]).astype(np.float64), float(np.mean([m for _, m in ordered]))
