"""What a run would be, before any GPU time is spent: config, sizes, floating-point work, memory and data."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from ..config.data import DatasetConfig
from ..config.load import dump_yaml
from ..config.train import TrainConfig
from ..data.order.buckets import Buckets
from ..data.order.datasets import load_datasets
from ..data.order.plan import DataPlan, make_plan
from ..data.order.plan_report import plan_text
from ..data.shards.remote import is_url
from ..launcher import planned_world_size
from ..models.trainable import set_trainable
from ..models.unet import VideoUNet
from .deepspeed import resolve_json, training_dtype, zero_stage
from .make_cache import open_caches
from .metrics import forward_flops

GIB = 2**30


def describe(config: TrainConfig, deepspeed_json: str | Path) -> str:
    """The resolved config and DeepSpeed settings, parameters, FLOPs, the states' memory per rank, and the data's plan.

    Raises ConfigError and DataError as the run would, except that data may be elsewhere: then there is a line of it.
    """
    ranks = planned_world_size()
    settings = resolve_json(deepspeed_json, config, ranks)
    with torch.device("meta"):
        network = VideoUNet(config.model)
    set_trainable(network, config.trainable)
    total = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    stage = zero_stage(settings)
    per_rank, micro_batches = config.train_batch_size, config.gradient_accumulation_steps
    clips = per_rank * micro_batches * ranks
    lines = [
        "# resolved config",
        dump_yaml(config).rstrip(),
        "# DeepSpeed",
        json.dumps(settings, indent=2),
        "# sizes",
        f"ranks: {ranks}; global batch: {per_rank} x {micro_batches} x {ranks} = {clips} clips",
        f"parameters: {total:,}, of which {trained:,} train ({config.trainable})",
    ]
    lines += [
        f"work: {3 * forward_flops(config, size) / 1e12:.3f} TFLOP per clip of {size.name} with its images "
        "(forward and backward)"
        for size in config.data.sizes
    ]
    lines += [
        f"{name}: {size / GIB:.2f} GiB per rank" for name, size in state_bytes(config, total, trained, stage, ranks)
    ]
    kept = config.checkpoints_total_limit
    lines.append(
        f"a checkpoint: {checkpoint_bytes(config, total, trained, stage) / GIB:.2f} GiB on disk; "
        + (f"{kept} are kept, and one more while it is written" if kept else "all are kept")
    )
    lines.append(
        "activations, autoencoder and text encoder come on top: the first step's `memory` in metrics.jsonl has them"
    )
    return "\n".join([*lines, "# data", *_data(config, ranks)])


def plan_of(config: TrainConfig, ranks: int, buckets: Buckets | None = None) -> DataPlan:
    """What the run will see of its data; arguments and errors as for `make_plan`."""
    clips = config.train_batch_size * config.gradient_accumulation_steps * ranks
    return make_plan(config.data, seed=config.seed, steps=config.max_train_steps, global_batch=clips, buckets=buckets)


def _data(config: TrainConfig, ranks: int) -> list[str]:
    """The plan, or, as a dry run may be made where the data is not, a line that says so."""
    data, lines = config.data, []
    train = [path for entry in data.train for path in (entry.path if isinstance(entry, DatasetConfig) else (entry,))]
    absent = {"data.train": _absent(train), "data.validation": _absent(data.validation)}
    for key in ("pretrained_model_name_or_path", "init_weights"):
        absent[key] = _absent([getattr(config, key) or ""])
    if not absent["data.train"]:
        lines.append(plan_text(plan_of(config, ranks)))
    if data.validation and not absent["data.validation"]:
        load_datasets(data.held_out, data.validation)
    absent["data.cache"] = _absent([data.cache or ""])
    if not absent["data.cache"] and not absent["pretrained_model_name_or_path"]:
        open_caches(config)  # one of other encoders or sizes is refused
    return lines + [f"not here, so not checked: {key} {', '.join(paths)}" for key, paths in absent.items() if paths]


def _absent(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if path and not is_url(path) and not Path(path).exists()]


def checkpoint_bytes(config: TrainConfig, total: int, trained: int, stage: int) -> int:
    """Bytes of one checkpoint of all ranks: the float32 network, the optimizer's states and DeepSpeed's weights."""
    # Of stage 3 the weights are those of the optimizer's masters, but for what does not train.
    own = (total if stage < 3 else total - trained) * training_dtype(config).itemsize
    return total * 4 + optimizer_bytes(config, trained, stage) + own


def optimizer_bytes(config: TrainConfig, trained: int, stage: int) -> int:
    """Bytes of all ranks' optimizer states: two moments, and a master where it is not the weights themselves."""
    return trained * (12 if stage or training_dtype(config) != torch.float32 else 8)


def state_bytes(config: TrainConfig, total: int, trained: int, stage: int, ranks: int) -> list[tuple[str, float]]:
    """Bytes a rank holds of weights, gradients, optimizer and average under a ZeRO stage (Rajbhandari et al., 2020)."""
    size = training_dtype(config).itemsize
    share = {"weights": 3, "gradients": 2, "optimizer": 1}
    per = {name: ranks if stage >= first else 1 for name, first in share.items()}
    states = {
        "weights": total * size / per["weights"],
        "gradients": trained * size / per["gradients"],
        "optimizer (float32 master and two moments)": optimizer_bytes(config, trained, stage) / per["optimizer"],
        "average": trained * 4 * config.use_ema / per["optimizer"],
    }
    whole = ("the whole network and its float32 average, while validating", float(total * (size + 4)))
    return [*states.items(), ("states in all", sum(states.values())), whole]
