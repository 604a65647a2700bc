"""The learning rate as a function of the step."""

import math

import pytest
from torch import nn

from lavie.config.train import TrainConfig
from lavie.training.optim import build_optimizer, learning_rate


def config(**changes) -> TrainConfig:
    values = {
        "output_dir": "unused",
        "model": {"in_channels": 48, "out_channels": 48},
        "autoencoder": {"type": "patch", "patch_size": 4},
        "text_encoder": {"type": "hash"},
        "data": {"train": "unused", "frame_stride": 1},
        "max_train_steps": 110,
        "learning_rate": 2.0,
        "lr_warmup_steps": 10,
    }
    return TrainConfig.model_validate(values | changes)


def test_constant_after_a_linear_warm_up():
    rates = [learning_rate(config(), step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * k for k in range(1, 11)])
    assert set(rates[10:]) == {2.0}


def test_cosine_falls_from_the_full_rate_to_zero():
    rates = [learning_rate(config(lr_scheduler="cosine"), step) for step in range(111)]
    assert rates[10] == 2.0
    assert rates[110] == pytest.approx(0, abs=1e-12)
    assert rates[60] == pytest.approx(1.0)
    assert rates[35] == pytest.approx(1 + math.cos(math.pi / 4))


def test_no_warm_up_starts_at_the_full_rate():
    assert learning_rate(config(lr_warmup_steps=0), 0) == 2.0


def test_every_option_reaches_the_optimizer():
    options = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6, "adam_weight_decay": 0.3}
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    [group] = build_optimizer(network, config(**options)).param_groups
    assert group["lr"] == 2.0
    assert group["betas"] == (0.8, 0.95)
    assert group["eps"] == 1e-6
    assert group["weight_decay"] == 0.3
    assert [id(p) for p in group["params"]] == [id(network.weight)]
