"""DeepSpeed's JSON is completed from the run's config, and what contradicts the config is told with both places."""

import pytest

from lavie.config.load import load_config
from lavie.errors import ConfigError
from lavie.training.deepspeed import resolve_json
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


@pytest.mark.parametrize("content", (None, "{", "[]"))
def test_a_json_that_is_none_is_named(tmp_path, content):
    config, path = load_config(write(tmp_path / "run.yaml", BASE)), tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"ds.json"):
        resolve_json(path, config, world_size=1)
