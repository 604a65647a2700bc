"""What a run would be, before any GPU time is spent: config, sizes, floating-point work, memory and data."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..config.data import DatasetConfig
from ..config.load import dump_yaml
from ..config.train import TrainConfig
from ..data.order.buckets import Buckets, load_buckets
from ..data.order.held_out import held_out_text
from ..data.order.long_captions import count_long
from ..data.order.plan import DataPlan, make_plan
from ..data.order.plan_report import plan_text
from ..data.shards.remote import is_url
from ..launcher import planned_world_size
from ..models.text_encoder import caption_limit
from ..models.trainable import set_trainable
from ..models.unet import VideoUNet
from .cost import forward_flops
from .deepspeed import resolve_json, zero_stage
from .open_caches import open_caches
from .precision import training_dtype

GIB = 2**30


def dry_run_text(config: TrainConfig, deepspeed_json: str | Path) -> str:
    """Return what `train.py --dry-run` prints.

    That is the resolved config and DeepSpeed settings, parameters, FLOPs, the states' memory per rank, and the plan of
    the data.

    Args:
        config: the run.
        deepspeed_json: the file of DeepSpeed's settings.

    Raises:
        ConfigError: as the run would.
        DataError: as the run would, but not if data lies elsewhere: then a line of the text says so.
    """
    ranks = planned_world_size()
    settings = resolve_json(deepspeed_json, config, ranks)
    lines = ["# resolved config", dump_yaml(config).rstrip(), "# DeepSpeed", json.dumps(settings, indent=2)]
    return "\n".join([*lines, "# sizes", *_sizes(config, settings, ranks), "# data", *_data(config, ranks)])


def plan_of(config: TrainConfig, ranks: int, buckets: Buckets | None = None) -> DataPlan:
    """Return what a run will see of its data.

    Args:
        config: the run.
        ranks: the number of ranks.
        buckets: the run's, if they are loaded already.

    Raises:
        ConfigError: as for `make_plan`.
        DataError: as for `make_plan`.
    """
    clips = config.train_batch_size * config.gradient_accumulation_steps * ranks
    return make_plan(config.data, seed=config.seed, steps=config.max_train_steps, global_batch=clips, buckets=buckets)


def _sizes(config: TrainConfig, settings: dict[str, Any], ranks: int) -> list[str]:
    """Return lines about the batch, the parameters, the work and the memory of a run.

    Args:
        config: the run.
        settings: DeepSpeed's, complete.
        ranks: the number of ranks.
    """
    # The network on the meta device: its parameters are counted, not held.
    with torch.device("meta"):
        network = VideoUNet(config.model)
    set_trainable(network, config.trainable)
    total = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)

    per_rank, micro_batches = config.train_batch_size, config.gradient_accumulation_steps
    clips = per_rank * micro_batches * ranks
    lines = [
        f"ranks: {ranks}; global batch: {per_rank} x {micro_batches} x {ranks} = {clips} clips",
        f"parameters: {total:,}, of which {trained:,} train ({config.trainable})",
    ]

    # Backward costs twice the forward.
    for size in config.data.sizes:
        teraflops = 3 * forward_flops(config, size) / 1e12
        lines.append(f"work: {teraflops:.3f} TFLOP per clip of {size.name} with its images (forward and backward)")

    stage = zero_stage(settings)
    for name, size_in_bytes in state_bytes(config, total, trained, stage, ranks):
        lines.append(f"{name}: {size_in_bytes / GIB:.2f} GiB per rank")
    limit = config.checkpoints_total_limit
    lines.append(
        f"a checkpoint: {checkpoint_bytes(config, total, trained, stage) / GIB:.2f} GiB on disk; "
        + (f"{limit} are kept, and one more while it is written" if limit else "all are kept")
    )
    lines.append(
        "activations, autoencoder and text encoder come on top: the first step's `memory` in metrics.jsonl has them"
    )
    return lines


def _data(config: TrainConfig, ranks: int) -> list[str]:
    """Return the plan of the data, and a line for each key whose files are not here, as on a machine without data."""
    data = config.data
    train: list[str] = []
    for dataset in data.train:
        train += dataset.path if isinstance(dataset, DatasetConfig) else (dataset,)
    absent = {
        "data.train": _absent(train),
        "data.validation": _absent(data.validation),
        "pretrained_model_name_or_path": _absent([config.pretrained_model_name_or_path or ""]),
        "init_weights": _absent([config.init_weights or ""]),
        "data.cache": _absent([data.cache or ""]),
    }

    # What is here is read as the run would read it, with its errors.
    lines = []
    if not absent["data.train"]:
        buckets = load_buckets(data, data.train, config.seed)
        limit = caption_limit(config.text_encoder, config.pretrained_model_name_or_path)
        lines += [plan_text(plan_of(config, ranks, buckets)), count_long(buckets.datasets, data, limit)[1]]
    if data.validation and not absent["data.validation"]:
        lines.append(held_out_text(data))
    if not absent["data.cache"] and not absent["pretrained_model_name_or_path"]:
        open_caches(config)

    for key, paths in absent.items():
        if paths:
            lines.append(f"not here, so not checked: {key} {', '.join(paths)}")
    return lines


def _absent(paths: Iterable[str]) -> list[str]:
    """Return the paths that are no files or folders here; addresses on the network and empty paths do not count."""
    return [path for path in paths if path and not is_url(path) and not Path(path).exists()]


def checkpoint_bytes(config: TrainConfig, total: int, trained: int, stage: int) -> int:
    """Return the bytes of one checkpoint: the float32 network, the optimizer's states and DeepSpeed's weights.

    Args:
        config: the run.
        total: the number of parameters.
        trained: how many of them train.
        stage: the ZeRO stage.
    """
    # DeepSpeed's weights under stage 3 are those of the optimizer's masters, but for what does not train.
    deepspeed_weights = (total if stage < 3 else total - trained) * training_dtype(config).itemsize
    return total * 4 + optimizer_bytes(config, trained, stage) + deepspeed_weights


def optimizer_bytes(config: TrainConfig, trained: int, stage: int) -> int:
    """Return the bytes of all ranks' optimizer states: two moments, and a master where the weights are not the master.

    Arguments as for `checkpoint_bytes`.
    """
    return trained * (12 if stage or training_dtype(config) != torch.float32 else 8)


def state_bytes(config: TrainConfig, total: int, trained: int, stage: int, ranks: int) -> list[tuple[str, float]]:
    """Return the bytes that a rank holds of weights, gradients, optimizer and average, by what they are.

    Stage 1 shares the optimizer's states and the average among the ranks, stage 2 the gradients too, and stage 3 the
    weights too (Rajbhandari et al., 2020).

    Args:
        config: the run.
        total: the number of parameters.
        trained: how many of them train.
        stage: the ZeRO stage.
        ranks: the number of ranks.
    """
    weight_bytes = training_dtype(config).itemsize
    optimizer_ranks, gradient_ranks, weight_ranks = (ranks if stage >= first else 1 for first in (1, 2, 3))
    states = {
        "weights": total * weight_bytes / weight_ranks,
        "gradients": trained * weight_bytes / gradient_ranks,
        "optimizer (float32 master and two moments)": optimizer_bytes(config, trained, stage) / optimizer_ranks,
        "average": trained * 4 * config.use_ema / optimizer_ranks,
    }
    validating = ("the whole network and its float32 average, while validating", float(total * (weight_bytes + 4)))
    return [*states.items(), ("states in all", sum(states.values())), validating]
