"""What is measured of a run's samples while it trains: distances to the held-out clips, CLIPSIM, and motion.

The captions of the held-out clips are drawn by the network as it is, each with noise of its own, the same at every
evaluation. The clips themselves are measured at the first one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..config.train import TrainConfig
from ..data.feed.loader import fixed_batches
from ..data.feed.share import Share
from ..data.order.held_out import load_held_out
from ..distributed import gather_objects, rank, world_size
from ..errors import ConfigError
from ..inference.load import default_device
from ..inference.schedulers import require_sampling
from ..inference.settings import BaseSettings, arguments
from ..inference.text_to_video import TextToVideo
from ..seeds import torch_generator
from .clip_network.network import ClipTokens, load_clip
from .fvd.distance import frechet, mmd, spread
from .fvd.extractors import Extractor, I3DLogits, Scripted
from .fvd.i3d import SIDE
from .fvd.preprocess import apply_steps
from .fvd.protocol import SQUARE

FIRST_INDEX = 1 << 20
"""The number of the first sample's noise: far from those of the validation prompts."""


class TrainingMeasure:
    """Measures the samples of a run: called with its network and objective, by all ranks together."""

    def __init__(self, config: TrainConfig) -> None:
        """Load what the section `eval` names, before anything is trained.

        Raises:
            LavieError: the weights cannot be read, or the clips are too short for them, or too few.
        """
        require_sampling(config)
        _require_clips(config)
        self.config = config
        self._extractor = _extractor(config)
        self._clip = _Clip(Path(config.eval.clip)) if config.eval.clip else None
        self._captions: dict[int, str] = {}  # of this rank's clips, by their places among those of all ranks
        self._real: Measured | None = None

    def __call__(self, network: Any, objective: Any) -> dict[str, float]:
        """Draw the captions of the held-out clips, and return what is measured of them, by name."""
        if self._real is None:
            self._real = self._held_out()
        sampler = TextToVideo(network, objective.autoencoder, objective.text_encoder, objective.schedule)
        settings = BaseSettings.of(self.config, prompt_syntax="plain")
        rows = {}
        for place, caption in self._captions.items():
            [frames] = sampler([caption], indices=[FIRST_INDEX + place], **arguments(settings))
            rows[place] = self._row(frames, caption)

        real, fake = self._real, Measured.of_all_ranks(rows)
        found = {
            "eval_clips": len(fake.motion),
            "eval_motion": float(fake.motion.mean()),
            "eval_motion_held_out": float(real.motion.mean()),
        }
        if self._extractor is not None:
            kernel = spread(mmd, real.features, fake.features, self.config.seed)
            found["eval_fvd"] = frechet(real.features, fake.features)
            found |= {"eval_kvd": kernel.value, "eval_kvd_error": kernel.error}
        if self._clip is not None:
            found["eval_clipsim"] = float(fake.cosine.mean())
            found["eval_clipsim_held_out"] = float(real.cosine.mean())
        return found

    def _held_out(self) -> "Measured":
        """Read this rank's held-out clips, and return what is measured of those of all ranks. Collective."""
        config = self.config
        share = Share(
            seed=config.seed,
            train_batch_size=config.train_batch_size,
            gradient_accumulation_steps=1,
            rank=rank(),
            world_size=world_size(),
        )
        data = config.data.held_out
        count = _batches(config)
        rows = {}
        for batch in fixed_batches(data, data.validation, share, num_batches=count):
            places = batch["positions"].tolist()
            for place, pixels, captions in zip(places, batch["pixels"], batch["captions"], strict=True):
                rows[place] = self._row(pixels[: data.num_frames].numpy(), captions[0])
                self._captions[place] = captions[0]
        return Measured.of_all_ranks(rows)

    def _row(self, frames: np.ndarray, caption: str) -> "Row":
        """Return what is measured of a clip, uint8 (F, H, W, 3)."""
        features = np.zeros(0)
        if self._extractor is not None:
            features = self._extractor(apply_steps(frames, [SQUARE])[None]).numpy()[0]
        cosine = self._clip.cosine(frames, caption) if self._clip is not None else 0.0
        return Row(features, cosine, _motion(frames))


def _batches(config: TrainConfig) -> int:
    """Return how many batches of each rank an evaluation takes."""
    return -(-config.eval.num_clips // (config.train_batch_size * world_size()))


def _require_clips(config: TrainConfig) -> None:
    """Raise ConfigError if there are fewer held-out clips than are measured: clips that count twice move distances."""
    datasets, _ = load_held_out(config.data.held_out, config.data.validation)
    there = sum(len(dataset.index.videos) for dataset in datasets)
    wanted = _batches(config) * config.train_batch_size * world_size()
    if wanted > there:
        raise ConfigError(
            f"eval.num_clips is {config.eval.num_clips}, in whole batches {wanted}: data.validation has {there} clips; "
            "wanted so many or fewer"
        )


class Row(NamedTuple):
    """What is measured of one clip."""

    features: np.ndarray
    """(D,), by the extractor; empty without one."""
    cosine: float
    """The cosine of the caption and the frames, by CLIP; 0 without it."""
    motion: float
    """See `_motion`."""


class Measured(NamedTuple):
    """What is measured of n clips, by their places."""

    features: np.ndarray
    """float64 (n, D)."""
    cosine: np.ndarray
    """float64 (n,)."""
    motion: np.ndarray
    """float64 (n,)."""

    @classmethod
    def of_all_ranks(cls, rows: Mapping[int, Row]) -> "Measured":
        """Join the ranks' rows, by their places among all clips. Collective."""
        joined: dict[int, Row] = {}
        for part in gather_objects(dict(rows)):
            joined |= part
        ordered = [joined[place] for place in sorted(joined)]
        return cls(*(np.stack([np.asarray(row[i], np.float64) for row in ordered]) for i in range(3)))


class _Clip:
    """CLIP with its tokenizer."""

    def __init__(self, folder: Path) -> None:
        """Load both from a folder."""
        self._network = load_clip(folder, default_device())
        self._tokens = ClipTokens(folder, self._network)
        self._protocol = self._network.frame_protocol()

    def cosine(self, frames: np.ndarray, caption: str) -> float:
        """Return the mean cosine of a caption, cut where it is too long, and frames uint8 (F, H, W, 3)."""
        images = self._network.embed_frames(frames, self._protocol)
        [text] = self._network.embed_tokens(self._tokens([caption])[0])
        return float((images @ text).mean())


def _extractor(config: TrainConfig) -> Extractor | None:
    """Return the extractor of clips that the section `eval` names, or None.

    Raises:
        LavieError: it cannot be read, the clips are too short for it, or it fails on noise of their size.
    """
    wanted = config.eval
    found: Extractor | None = None
    if wanted.weights:
        if not Path(wanted.weights).is_file():
            raise ConfigError(f"eval.weights is {wanted.weights}: no such file")
        found = I3DLogits(Path(wanted.weights), default_device())
    elif wanted.extractor:
        found = Scripted(Path(wanted.extractor), default_device())
        # What it cannot take is said now, and not after the first steps.
        noise = torch.rand(1, 3, config.data.num_frames, SIDE, SIDE, generator=torch_generator(0, "try extractor"))
        found(noise * 2 - 1)
    if found is not None:
        found.check(config.data.num_frames)
    return found


def _motion(frames: np.ndarray) -> float:
    """Return the mean absolute difference of successive frames, in levels of 255: a frozen clip has 0."""
    return float(np.abs(np.diff(frames.astype(np.float64), axis=0)).mean()) if len(frames) > 1 else 0.0
