"""What a run computes in: the dtype of the network, the device that must know it, and the dtype gradients add up in."""

import os
from pathlib import Path
from typing import Any

import torch

from ..config.train import TrainConfig
from ..errors import ConfigError

HALF = {torch.float16: "fp16", torch.bfloat16: "bf16"}
"""The dtypes of 16 bits, whose weights have float32 masters, and DeepSpeed's names of them."""


def training_dtype(config: TrainConfig) -> torch.dtype:
    """Return the dtype that the network computes in: float32, bfloat16 or float16."""
    if config.mixed_precision == "auto":
        if not torch.cuda.is_available():
            return torch.float32
        return torch.bfloat16 if _computes_bf16() else torch.float16
    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.mixed_precision]


def dtype_name(config: TrainConfig) -> str:
    """Return the name of the dtype that the network computes in, as "bfloat16"."""
    return str(training_dtype(config)).removeprefix("torch.")


def require_dtype(config: TrainConfig, device: torch.device) -> None:
    """Check that a device computes in what mixed_precision asks for.

    Raises:
        ConfigError: it does not.
    """
    dtype = training_dtype(config)
    if device.type == "cuda" and dtype == torch.bfloat16 and not _computes_bf16():
        major, minor = torch.cuda.get_device_capability(device)
        raise ConfigError(
            f"mixed_precision is bf16, but {torch.cuda.get_device_name(device)} has compute capability {major}.{minor} "
            "and bf16 needs 8.0: set mixed_precision to fp16, or to auto, which takes it there"
        )
    if device.type == "cpu" and dtype == torch.float16:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for a GPU
        from deepspeed.accelerator import get_accelerator

        if not get_accelerator().is_fp16_supported():
            raise ConfigError(
                "mixed_precision is fp16, but this processor does not compute in it: set mixed_precision to no or bf16"
            )


def _computes_bf16() -> bool:
    """Return whether the GPU computes in bf16 itself: what PyTorch emulates on older ones is slower than float32."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def fill_accumulation(settings: dict[str, Any], config: TrainConfig, stage: int, path: str | Path) -> None:
    """Let the gradients of 16 bits add up over the micro-batches of a step in float32.

    A sum of 256 in bf16, whose numbers have 8 significant bits, does not change by adding 1: the small gradients of
    many micro-batches are lost.

    Args:
        settings: DeepSpeed's; changed in place. What they do not say is filled in.
        config: the run.
        stage: the ZeRO stage of `settings`.
        path: the file of `settings`, for the message.

    Raises:
        ConfigError: micro-batches are accumulated, and the settings ask for another dtype, or for ZeRO stage 0, where
            DeepSpeed knows no other; or the run is in fp16 under stage 0.
    """
    types = settings.get("data_types", {})
    if not isinstance(types, dict):
        raise ConfigError(f"{path}: data_types is {types!r}: wanted an object")
    asked, accumulation = types.pop("grad_accum_dtype", None) or "auto", config.gradient_accumulation_steps
    name = HALF.get(training_dtype(config))
    if name == "fp16" and stage == 0:
        raise ConfigError(
            f"{path}: under ZeRO stage 0 DeepSpeed does not scale the loss, and small gradients are lost in fp16: set "
            "zero_optimization.stage to 1, 2 or 3 (on one rank, 1 shares nothing either)"
        )

    # Nothing adds up, or in float32 anyway. Without ZeRO, DeepSpeed takes no dtype but the network's.
    if name is None or accumulation == 1:
        if asked != "auto" and stage:
            types["grad_accum_dtype"] = asked
        return

    if stage == 0:
        raise ConfigError(
            f"{path}: under ZeRO stage 0 gradients add up in {name}, which loses small ones, and "
            f"gradient_accumulation_steps is {accumulation}: set zero_optimization.stage to 1, 2 or 3 (on one rank, 1 "
            "shares nothing either), or gradient_accumulation_steps to 1 with a larger train_batch_size"
        )
    if asked not in ("auto", "fp32"):
        raise ConfigError(
            f"{path}: data_types.grad_accum_dtype is {asked}, in which small gradients are lost when "
            f"gradient_accumulation_steps is {accumulation}: set it to fp32, or remove it"
        )
    settings.setdefault("data_types", types)["grad_accum_dtype"] = "fp32"

    # Stage 1 sums over the ranks once a step, after the micro-batches: sent in 16 bits, their sum would be rounded.
    if stage == 1:
        settings.setdefault("communication_data_type", "fp32")
