"""What a run would be, before any GPU time is spent: config, sizes, floating-point work and memory."""

import json
import os
from pathlib import Path

import torch

from ..config import TrainConfig
from ..config_file import dump_yaml
from ..models.stages import set_trainable
from ..models.unet import VideoUNet
from .deepspeed import resolve_json, training_dtype
from .metrics import forward_flops

GIB = 2**30


def describe(config: TrainConfig, deepspeed_json: str | Path) -> str:
    """The resolved config and DeepSpeed settings, parameters, FLOPs and memory of the states per rank.

    Raises ConfigError as the run would.
    """
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    settings = resolve_json(deepspeed_json, config, ranks)
    with torch.device("meta"):
        network = VideoUNet(config.model)
    set_trainable(network, config.trainable)
    total = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    flops = forward_flops(config)
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
        f"work: {3 * flops / 1e12:.3f} TFLOP per clip with its images (forward and backward)",
    ]
    lines += [
        f"{name}: {size / GIB:.2f} GiB per rank" for name, size in state_bytes(config, total, trained, stage, ranks)
    ]
    lines.append(
        "activations, autoencoder and text encoder come on top: the first step's `memory` in metrics.jsonl has them"
    )
    return "\n".join(lines)


def state_bytes(config: TrainConfig, total: int, trained: int, stage: int, ranks: int) -> list[tuple[str, float]]:
    """Bytes a rank holds of weights, gradients, optimizer and average under a ZeRO stage (Rajbhandari et al., 2020)."""
    low = training_dtype(config) != torch.float32
    size = 2 if low else 4
    share = {"weights": 3, "gradients": 2, "optimizer": 1}
    per = {name: ranks if stage >= first else 1 for name, first in share.items()}
    states = {
        "weights": total * size / per["weights"],
        "gradients": trained * size / per["gradients"],
        "optimizer (float32 master and two moments)": trained * (12 if low or stage else 8) / per["optimizer"],
        "average": trained * 4 * config.use_ema / per["optimizer"],
    }
    whole = ("the whole network, while validating or saving", float(total * 4))
    return [*states.items(), ("states in all", sum(states.values())), whole]
