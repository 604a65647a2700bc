"""The optimizer, and the learning rate as a pure function of the step."""

import importlib.util
import math
from typing import Any

import torch
from torch import nn

from ..config.train import TrainConfig
from ..errors import ConfigError


def build_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW over the parameters that train, fused on a GPU; with moments in 8 bits if the config says so.

    Raises:
        ConfigError: the moments are to have 8 bits, and bitsandbytes is not installed.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.adam_weight_decay,
    }
    if config.optimizer == "adamw_8bit":
        require_optimizer(config)
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters, **options)
    return torch.optim.AdamW(parameters, **options, fused=parameters[0].is_cuda)


def require_optimizer(config: TrainConfig) -> None:
    """Raise ConfigError if the package of the run's optimizer is not installed."""
    if config.optimizer == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "optimizer is adamw_8bit, but the package bitsandbytes is not installed: "
            "pip install 'lavie[8bit]', or set optimizer to adamw"
        )


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    1. Over lr_warmup_steps it rises linearly to learning_rate.
    2. Then it is constant, or falls as a half cosine to 0 at max_train_steps.
    """
    warmup = config.lr_warmup_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.lr_scheduler == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, config.max_train_steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
