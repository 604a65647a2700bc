"""DeepSpeed's JSON is completed from the run's config, and what contradicts the config is told with both places."""

import pytest
import torch
from deepspeed.accelerator import get_accelerator

from lavie.config.load import load_config
from lavie.errors import ConfigError
from lavie.training.cost import peak_flops
from lavie.training.deepspeed import resolve_json
from lavie.training.precision import require_dtype, training_dtype
from tests.config.values import BASE, write


def test_auto_and_absent_values_are_filled(tmp_path):
    config = load_config(write(tmp_path / "run.yaml", BASE | {"train_batch_size": 3, "gradient_accumulation_steps": 2}))
    path = write(tmp_path / "ds.json", {"train_batch_size": "auto", "zero_optimization": {"stage": 1}})
    assert resolve_json(path, config, world_size=4) == {
        "train_batch_size": 24,
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": False},
        "zero_optimization": {"stage": 1},
        "timers": {"throughput": {"enabled": False}},  # which would wait for the GPU at every micro-batch
    }


def test_values_that_agree_are_kept(tmp_path):
    config = load_config(write(tmp_path / "run.yaml", BASE))
    path = write(tmp_path / "ds.json", {"train_batch_size": 2, "gradient_clipping": 1, "bf16": {"enabled": False}})
    assert resolve_json(path, config, world_size=2)["train_batch_size"] == 2


@pytest.mark.parametrize(
    "theirs, key, ours",
    (
        ({"train_micro_batch_size_per_gpu": 2}, "train_micro_batch_size_per_gpu is 2", "train_batch_size"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4", "gradient_accumulation_steps"),
        (
            {"train_batch_size": 64},
            "train_batch_size is 64",
            "train_batch_size x gradient_accumulation_steps x 2 ranks",
        ),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5", "max_grad_norm"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is True", "mixed_precision"),
    ),
)
def test_a_contradiction_names_both_places(tmp_path, theirs, key, ours):
    config = load_config(write(tmp_path / "run.yaml", BASE))
    path = write(tmp_path / "ds.json", theirs)
    with pytest.raises(ConfigError) as caught:
        resolve_json(path, config, world_size=2)
    message = str(caught.value)
    assert message.startswith(f"{path}: {key}, but the run's config says") and f"({ours})" in message


@pytest.mark.parametrize(
    "theirs, instead",
    (
        ({"optimizer": {"type": "AdamW"}}, "learning_rate"),
        ({"scheduler": {"type": "WarmupLR"}}, "lr_warmup_steps"),
        ({"fp16": {"enabled": True}}, "mixed_precision"),
    ),
)
def test_what_the_run_decides_is_refused_in_the_json(tmp_path, theirs, instead):
    config = load_config(write(tmp_path / "run.yaml", BASE))
    path = write(tmp_path / "ds.json", theirs)
    with pytest.raises(ConfigError) as caught:
        resolve_json(path, config, world_size=1)
    assert str(path) in str(caught.value) and next(iter(theirs)) in str(caught.value) and instead in str(caught.value)


@pytest.mark.parametrize(
    "stage, theirs, filled",
    (
        (1, {}, {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}),
        (2, {}, {"data_types": {"grad_accum_dtype": "fp32"}}),
        (3, {"data_types": {"grad_accum_dtype": "auto"}}, {"data_types": {"grad_accum_dtype": "fp32"}}),
    ),
)
@pytest.mark.parametrize("dtype", ("bf16", "fp16"))
def test_gradients_of_16_bits_add_up_in_float32(tmp_path, dtype, stage, theirs, filled):
    values = BASE | {"mixed_precision": dtype, "gradient_accumulation_steps": 2}
    config = load_config(write(tmp_path / "run.yaml", values))
    path = write(tmp_path / "ds.json", theirs | {"zero_optimization": {"stage": stage}})
    settings = resolve_json(path, config, world_size=1)
    assert {key: settings.get(key) for key in ("data_types", "communication_data_type") if key in settings} == filled
    assert settings[dtype] == {"enabled": True}


@pytest.mark.parametrize(
    "theirs, words",
    (
        ({"data_types": {"grad_accum_dtype": "bf16"}, "zero_optimization": {"stage": 2}}, "set it to fp32, or remove"),
        ({"data_types": "fp32", "zero_optimization": {"stage": 2}}, "data_types is 'fp32': wanted an object"),
        ({}, "under ZeRO stage 0 gradients add up in bf16.*gradient_accumulation_steps is 16"),
    ),
)
def test_gradients_that_would_add_up_in_bf16_are_refused(tmp_path, theirs, words):
    values = BASE | {"mixed_precision": "bf16", "gradient_accumulation_steps": 16}
    config = load_config(write(tmp_path / "run.yaml", values))
    with pytest.raises(ConfigError, match=words):
        resolve_json(write(tmp_path / "ds.json", theirs), config, world_size=1)


@pytest.mark.parametrize(
    "theirs, words",
    (
        ({"bf16": True}, "bf16 is True: wanted an object"),
        ({"zero_optimization": {"stage": "auto"}}, "zero_optimization.stage is 'auto': wanted 0, 1, 2 or 3"),
    ),
)
def test_a_json_of_another_shape_is_told_so(tmp_path, theirs, words):
    config = load_config(write(tmp_path / "run.yaml", BASE))
    with pytest.raises(ConfigError, match=words):
        resolve_json(write(tmp_path / "ds.json", theirs), config, world_size=1)


def test_fp16_without_zero_is_refused(tmp_path):
    config = load_config(write(tmp_path / "run.yaml", BASE | {"mixed_precision": "fp16"}))
    with pytest.raises(ConfigError, match=r"stage 0 DeepSpeed does not scale the loss.*stage to 1, 2 or 3"):
        resolve_json(write(tmp_path / "ds.json", {}), config, world_size=1)


def test_precisions_that_a_device_lacks_are_told(tmp_path, monkeypatch):
    """A GPU older than Ampere has no bf16; a CPU may have no fp16."""
    asked = {
        p: load_config(write(tmp_path / "run.yaml", BASE | {"mixed_precision": p})) for p in ("bf16", "fp16", "auto")
    }
    for name, value in (
        ("is_available", True),
        ("is_bf16_supported", False),
        ("get_device_capability", (7, 0)),
        ("get_device_name", "Tesla V100-SXM2-16GB"),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    with pytest.raises(ConfigError, match=r"bf16, but Tesla V100-SXM2-16GB has compute capability 7.0 .* to fp16"):
        require_dtype(asked["bf16"], torch.device("cuda"))
    require_dtype(asked["fp16"], torch.device("cuda"))
    assert training_dtype(asked["auto"]) == torch.float16
    assert peak_flops(torch.device("cuda")) == 125e12
    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
    with pytest.raises(ConfigError, match="fp16, but this processor does not compute in it"):
        require_dtype(asked["fp16"], torch.device("cpu"))


@pytest.mark.parametrize("content", (None, "{", "[]"))
def test_a_json_that_is_none_is_named(tmp_path, content):
    config, path = load_config(write(tmp_path / "run.yaml", BASE)), tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"ds.json"):
        resolve_json(path, config, world_size=1)
