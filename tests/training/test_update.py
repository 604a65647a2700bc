"""An update of the weights: what its gradient is, in every ZeRO stage and dtype, and when it is not made."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lavie.config.train import TrainConfig
from lavie.models.resnet import ResnetBlock
from lavie.testing import run_distributed
from tests.training.runs import deepspeed_json, make_config

SHARE = 271 / 16
"""The mean of 256 and fifteen times 1, which float32 and no sum in bf16 has exactly."""


class OneWeight(nn.Module):
    """A network of one weight, whose gradient is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        self.leaf = ResnetBlock.__new__(ResnetBlock)  # a block of the kind that ZeRO-3 is told of; it computes nothing
        nn.Module.__init__(self.leaf)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def engine_of(config: TrainConfig, settings: Path):
    from lavie.training.deepspeed import build_engine, init_distributed, resolve_json

    init_distributed()
    torch.manual_seed(0)
    return build_engine(OneWeight(), config, resolve_json(settings, config, torch.distributed.get_world_size()))


def updates(config: TrainConfig, settings: Path, steps: list[list[float]]) -> list[tuple]:
    """Make a step of each list of gradients: its norm, whether it was applied, the weight and loss scale after it."""
    from lavie.training.deepspeed import training_dtype
    from lavie.training.gradient import gradient_norms, whole_norm
    from lavie.training.partition import gather, local_slice
    from lavie.training.update import backward, loss_scale, update

    engine, after = engine_of(config, settings), []
    for gradients in steps:
        for number, gradient in enumerate(gradients, start=1):
            x = torch.full((1, 1), gradient, dtype=training_dtype(config))
            last = backward(engine, engine(x).float().sum())
            assert last == (number == len(gradients))
        norms = gradient_norms(engine).tolist()
        norm = whole_norm(engine, norms)
        applied = update(engine, norms, skip=not math.isfinite(norm) and not engine.fp16_enabled())
        after.append(
            (
                norm if applied else None,
                applied,
                gather(local_slice(engine.module.linear.weight)).item(),
                loss_scale(engine),
            )
        )
    return [*after, engine.skipped_steps]


def in_stages(config: TrainConfig, settings: list[Path], steps: list[list[float]]) -> list[list]:
    """What `updates` returns under each of DeepSpeed's settings."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True  # PyTorch computes in it on any CPU, if slowly
    return [updates(config, path, steps) for path in settings]


@pytest.mark.slow
def test_small_gradients_of_many_micro_batches_are_not_lost_in_bf16(tmp_path):
    config = make_config(
        tmp_path,
        tmp_path,
        mixed_precision="bf16",
        train_batch_size=1,
        gradient_accumulation_steps=16,
        max_grad_norm=0,
        data={"num_images": 0},
    )
    settings = [deepspeed_json(tmp_path, stage) for stage in (1, 2, 3)]
    for by_stage in run_distributed(in_stages, 2, config, settings, [[256.0, *[1.0] * 15]]):
        assert [first[0] for first, _ in by_stage] == [SHARE] * 3


@pytest.mark.slow
def test_an_update_is_skipped_where_the_gradient_is_not_finite(tmp_path):
    config = make_config(tmp_path, tmp_path, max_grad_norm=0.5, mixed_precision="no")
    settings = [deepspeed_json(tmp_path, stage) for stage in range(4)]
    for by_stage in run_distributed(in_stages, 2, config, settings, [[1.0], [float("nan")], [2.0]]):
        for first, poisoned, second, skipped in by_stage:
            assert first[:2] == (1.0, True) and second[:2] == (2.0, True)
            assert poisoned[:2] == (None, False) and skipped == 1
            assert poisoned[2] == first[2] != second[2]


@pytest.mark.slow
def test_the_loss_is_scaled_in_fp16_until_the_gradient_fits(tmp_path):
    """A gradient of 1 times 65536, the first scale, is infinite in fp16; one of 6e-8 is exact when scaled."""
    config = make_config(tmp_path, tmp_path, mixed_precision="fp16")
    settings = [deepspeed_json(tmp_path, stage) for stage in (1, 2, 3)]
    [by_stage] = run_distributed(in_stages, 1, config, settings, [[1.0]] * 4 + [[2.0**-24]])
    for *steps, skipped in by_stage:
        norms, applied, weights, scales = zip(*steps, strict=True)
        assert not applied[0] and norms[0] is None and applied[3]
        assert norms[3] == 1.0 and norms[4] == 2.0**-24
        assert skipped == applied.count(False)
        for number, made in enumerate(applied[1:], start=1):
            assert (weights[number] != weights[number - 1]) == made
        assert scales[-1] < 65536
