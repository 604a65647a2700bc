"""What saves memory leaves the run as it is: states and average on the CPU, validation; and moments in 8 bits train."""

import importlib.util
import json

import pytest
import torch

from lavie.errors import ConfigError
from lavie.testing import TOLERANCES, relative_error, run_distributed
from lavie.training import optim
from lavie.training.deepspeed import resolve_json
from tests.training.runs import deepspeed_json, draw_nothing, losses, make_config, train, weights


def offload_json(folder, stage: int, **more):
    path = deepspeed_json(folder, stage)
    values = json.loads(path.read_text())
    values["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    path = folder / f"offload{stage}.json"
    path.write_text(json.dumps(values | more))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("stage, trainable", ((2, "temporal"), (3, "all")))
def test_validation_leaves_training_bit_for_bit(rendered, tmp_path, stage, trainable):
    """With trainable=temporal under stage 2, the validation's network reads the very weights that lie frozen."""
    hashes, trained = [], []
    data = {"validation": str(rendered / "validation")}
    validating = {"data": data, "validation_batches": 1, "validation_steps": 1, "validation_prompts": ("a circle",)}
    for name, changes in (("without", {}), ("with", validating)):
        config = make_config(rendered, tmp_path / name, max_train_steps=4, trainable=trainable, **changes)
        ((_, of_run),) = run_distributed(train, 1, config, deepspeed_json(tmp_path, stage), draw_nothing)
        hashes.append(of_run)
        trained.append(losses(config))
    assert hashes[0] == hashes[1]
    assert trained[0] == trained[1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", (2, 3))
def test_offloaded_run_resumes_bit_for_bit_and_follows_the_one_on_the_device(rendered, tmp_path, stage):
    """DeepSpeed brings gradients to the CPU on a path of its own under stage 3, where rounding may differ."""
    path, bf16 = offload_json(tmp_path, stage), {"mixed_precision": "bf16"}
    plain = make_config(rendered, tmp_path / "plain", max_train_steps=4, **bf16)
    run_distributed(train, 1, plain, deepspeed_json(tmp_path, stage))
    whole = make_config(rendered, tmp_path / "whole", max_train_steps=4, **bf16)
    ((_, wanted),) = run_distributed(train, 1, whole, path)
    for name, weight in weights(plain, 4).items():
        assert relative_error(weights(whole, 4)[name], weight) <= TOLERANCES[torch.float32], name

    parts = {"checkpointing_steps": 2, "ema_device": "cpu", **bf16}
    first = make_config(rendered, tmp_path / "parts", max_train_steps=2, **parts)
    run_distributed(train, 1, first, path)
    rest = make_config(rendered, tmp_path / "parts", max_train_steps=4, resume_from_checkpoint="latest", **parts)
    ((_, hashes),) = run_distributed(train, 1, rest, path)
    assert hashes == wanted


@pytest.mark.parametrize(
    "stage, changes, more, message",
    (
        (0, {}, {}, "offload_optimizer needs zero_optimization.stage 1, 2 or 3"),
        (3, {"optimizer": "adamw_8bit"}, {}, "set optimizer to adamw"),
        (3, {}, {"zero_force_ds_cpu_optimizer": True}, "zero_force_ds_cpu_optimizer is True"),
    ),
)
def test_offload_that_cannot_work_is_refused(tmp_path, stage, changes, more, message):
    config = make_config(tmp_path, tmp_path / "run", **changes)
    with pytest.raises(ConfigError, match=message):
        resolve_json(offload_json(tmp_path, stage, **more), config, 1)


@pytest.mark.parametrize("section, device", (("offload_param", "cpu"), ("offload_optimizer", "nvme")))
def test_other_offloads_are_refused_by_name(tmp_path, section, device):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, section: {"device": device}}}))
    with pytest.raises(ConfigError, match=rf"{section}.device is '{device}': wanted none"):
        resolve_json(path, make_config(tmp_path, tmp_path / "run"), 1)


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(optim.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'lavie\[8bit\]', or set optimizer to adamw"):
        optim.require_optimizer(make_config(tmp_path, tmp_path / "run", optimizer="adamw_8bit"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("stage", (0, 2, 3))
def test_moments_in_8_bits_follow_adamw_and_resume(rendered, tmp_path, stage):
    path = deepspeed_json(tmp_path, stage)
    exact = make_config(rendered, tmp_path / "exact", max_train_steps=6)
    run_distributed(train, 1, exact, path)
    whole = make_config(rendered, tmp_path / "whole", max_train_steps=6, optimizer="adamw_8bit")
    ((_, wanted),) = run_distributed(train, 1, whole, path)
    for got, reference in zip(losses(whole), losses(exact), strict=True):
        assert got == pytest.approx(reference, rel=0.02)
    changes = {"optimizer": "adamw_8bit", "checkpointing_steps": 3}
    run_distributed(train, 1, make_config(rendered, tmp_path / "parts", max_train_steps=3, **changes), path)
    changes["resume_from_checkpoint"] = "latest"
    ((_, hashes),) = run_distributed(
        train, 1, make_config(rendered, tmp_path / "parts", max_train_steps=6, **changes), path
    )
    assert hashes == wanted
