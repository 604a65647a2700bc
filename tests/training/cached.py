"""A small run, online and from a cache, and what its network would be given."""

import itertools
from pathlib import Path
from typing import Any

import torch

from lavie.config.overrides import merge
from lavie.config.train import TrainConfig
from lavie.data.feed.batches import Batch
from lavie.data.feed.loader import build_loader
from lavie.data.feed.share import Share
from lavie.diffusion.schedule import NoiseSchedule
from lavie.models.autoencoder import build_autoencoder
from lavie.models.text_encoder import build_text_encoder
from lavie.training.make_cache import cache_data
from lavie.training.objective import Inputs, Objective
from lavie.training.open_caches import open_caches

CPU = torch.device("cpu")


def make_config(rendered: Path, pretrained: Path | None = None, **changes: Any) -> TrainConfig:
    """Return a small run without a cache: clips of 4 frames of 16 x 16 with 2 images, two fixed cuts of each sample.

    Args:
        rendered: holds the dataset train/.
        pretrained: a Stable Diffusion folder, whose autoencoder gives latents of 2 x 2 with 4 channels. Without it, a
            patch transform gives latents of 4 x 4 with 6 channels.
        changes: keys of the config with other values; those in sections are merged one by one.
    """
    values: dict[str, Any] = {
        "output_dir": "unused",
        "model": {
            "in_channels": 4 if pretrained else 6,
            "out_channels": 4 if pretrained else 6,
            "block_out_channels": (16,),
            "cross_attention": (True,),
            "layers_per_block": 1,
            "num_attention_heads": 1,
            "cross_attention_dim": 16,
            "norm_num_groups": 4,
            "rotary_dim": 8,
        },
        "autoencoder": {}
        if pretrained
        else {"type": "patch", "patch_size": 4, "coefficients": 2, "scaling_factor": 0.3},
        "text_encoder": {"max_length": 32} if pretrained else {"type": "hash", "max_length": 6},
        "pretrained_model_name_or_path": str(pretrained) if pretrained else None,
        "data": {
            "train": str(rendered / "train"),
            "num_frames": 4,
            "num_images": 2,
            "height": 16,
            "width": 16,
            "frame_stride": 1,
            "num_workers": 0,
            "cuts": 2,
        },
        "max_train_steps": 4,
        "train_batch_size": 2,
        "learning_rate": 1e-3,
        "caption_dropout": 0.3,
    }
    return TrainConfig.model_validate(merge(values, changes))


def cached(config: TrainConfig, out: Path, **kwargs: Any) -> TrainConfig:
    """Make the whole cache of a run, and return the run's config with it; `kwargs` go to `cache_data`."""
    report = cache_data(config, out, device=CPU, **kwargs)
    assert not report.failed
    assert report.kept + report.encoded == report.wanted
    return with_cache(config, out)


def with_cache(config: TrainConfig, out: Path, **changes: Any) -> TrainConfig:
    """Return a run's config with the cache `out`, and with other changes of its section data."""
    return TrainConfig.model_validate(merge(config.model_dump(), {"data": {"cache": str(out), **changes}}))


def make_objective(config: TrainConfig) -> Objective:
    """Return the objective of a run on the CPU, in float32, with the empty caption of its cache if it has one."""
    pretrained, dim = config.pretrained_model_name_or_path, config.model.cross_attention_dim
    caches = open_caches(config)
    return Objective(
        config,
        build_autoencoder(config.autoencoder, pretrained),
        build_text_encoder(config.text_encoder, dim, pretrained),
        NoiseSchedule.from_config(config),
        CPU,
        torch.float32,
        empty_text=next(iter(caches.values())).empty_text if caches else None,
    )


def batches(config: TrainConfig, count: int, **changes: Any) -> list[Batch]:
    """Return the first batches of a run, of 4 clips; `changes` are fields of `Share`."""
    share = Share(**{"seed": config.seed, "train_batch_size": 4, **changes})
    loader = build_loader(config.data, config.data.train, share, caches=open_caches(config))
    return list(itertools.islice(loader, count))


def inputs(config: TrainConfig, count: int = 6) -> list[Inputs]:
    """Return what the network of a run would be given at the first batches."""
    objective = make_objective(config)
    return [objective.training_inputs(batch) for batch in batches(config, count)]


def without_encoders(config: TrainConfig, count: int) -> list[Inputs]:
    """Return the same as `inputs` of a run with a cache, without encoders: the entries must be enough."""
    objective = make_objective(config)
    objective.autoencoder = objective.text_encoder = None  # type: ignore[assignment]
    return [objective.training_inputs(batch) for batch in batches(config, count)]
