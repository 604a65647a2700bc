"""What the tests of the cache share: a small run, online and from a cache, and what its network would be given."""

import itertools
from pathlib import Path
from typing import Any

import torch

from lavie.config.load import merge
from lavie.config.train import TrainConfig
from lavie.data.feed.loader import build_loader
from lavie.data.feed.share import Share
from lavie.diffusion.schedule import NoiseSchedule
from lavie.models.autoencoder import build_autoencoder
from lavie.models.text_encoder import build_text_encoder
from lavie.training.make_cache import cache_data, open_caches
from lavie.training.objective import Objective

CPU = torch.device("cpu")


def make_config(rendered: Path, pretrained: Path | None = None, **changes: Any) -> TrainConfig:
    """Clips of 4 frames of 16 x 16 and 2 images: latents 2 x 2 x 4 of diffusers' autoencoder, or 4 x 4 x 6 patches."""
    values: dict[str, Any] = dict(
        output_dir="unused",
        model=dict(
            in_channels=4 if pretrained else 6,
            out_channels=4 if pretrained else 6,
            block_out_channels=(16,),
            cross_attention=(True,),
            layers_per_block=1,
            num_attention_heads=1,
            cross_attention_dim=16,
            norm_num_groups=4,
            rotary_dim=8,
        ),
        autoencoder={} if pretrained else dict(type="patch", patch_size=4, coefficients=2, scaling_factor=0.3),
        text_encoder=dict(max_length=32) if pretrained else dict(type="hash", max_length=6),
        pretrained_model_name_or_path=str(pretrained) if pretrained else None,
        data=dict(
            train=str(rendered / "train"),
            num_frames=4,
            num_images=2,
            height=16,
            width=16,
            frame_stride=1,
            num_workers=0,
            cuts=2,
        ),
        max_train_steps=4,
        train_batch_size=2,
        learning_rate=1e-3,
        caption_dropout=0.3,
    )
    return TrainConfig.model_validate(merge(values, changes))


def cached(config: TrainConfig, out: Path, **kwargs: Any) -> TrainConfig:
    """The config with a cache that is made for it."""
    report = cache_data(config, out, device=CPU, **kwargs)
    assert not report.failed and report.kept + report.encoded == report.wanted
    return with_cache(config, out)


def with_cache(config: TrainConfig, out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(merge(config.model_dump(), {"data": {"cache": str(out), **changes}}))


def make_objective(config: TrainConfig) -> Objective:
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


def batches(config: TrainConfig, count: int, **changes: Any) -> list:
    share = Share(**{"seed": config.seed, "train_batch_size": 4, **changes})
    loader = build_loader(config.data, config.data.train, share, caches=open_caches(config))
    return list(itertools.islice(loader, count))


def inputs(config: TrainConfig, count: int = 6) -> list:
    step = make_objective(config)
    return [step.training_inputs(batch) for batch in batches(config, count)]


def without_encoders(config: TrainConfig, count: int) -> list:
    """The inputs, from encoders that must not be asked."""
    step = make_objective(config)
    step.autoencoder = step.text_encoder = None  # type: ignore[assignment]
    return [step.training_inputs(batch) for batch in batches(config, count)]
