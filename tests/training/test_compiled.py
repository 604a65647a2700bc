"""Blocks that torch.compile has made graphs of train as they do without, and what cannot be compiled is refused."""

import pytest
import torch

from lavie.errors import ConfigError
from lavie.testing import LOSS_RTOL, run_distributed
from lavie.training import compiled
from lavie.training.compiled import require_compiler
from tests.training.runs import deepspeed_json, losses, make_config

STEPS = 3


def train_compiled(config, settings, backend: str) -> int:
    """Train a run whose blocks are compiled by a backend, on this rank; return how many are."""
    from lavie.training.trainer import Trainer

    compiled.BACKEND = backend
    with Trainer(config, settings) as trainer:
        trainer.fit()
        return sum("forward" in vars(module) for module in trainer.engine.module.modules())


@pytest.mark.slow
def test_losses_under_zero3_are_those_without_compilation(rendered, tmp_path):
    """On two ranks with checkpointing, by PyTorch's own graphs forward and backward, which take seconds, and not C++.
    ZeRO-3 knows the order of the modules in the third step."""
    changes = {"max_train_steps": STEPS, "gradient_checkpointing": True, "train_batch_size": 1}
    runs = {}
    for choice in ("none", "leaves"):
        runs[choice] = make_config(rendered, tmp_path / choice, compile=choice, **changes)
        blocks = run_distributed(train_compiled, 2, runs[choice], deepspeed_json(tmp_path, 3), "aot_eager")
        assert blocks == [0 if choice == "none" else 12] * 2
    assert len(losses(runs["none"])) == STEPS
    assert losses(runs["leaves"]) == pytest.approx(losses(runs["none"]), rel=LOSS_RTOL)


@pytest.mark.parametrize("key, value", (("trainable", "lora"), ("attention", "flash-attn")))
def test_what_is_no_whole_graph_is_refused(rendered, tmp_path, key, value):
    with pytest.raises(ValueError, match=f"compile is leaves and {key} is {value}.*set compile to none"):
        make_config(rendered, tmp_path, compile="leaves", init_weights=str(tmp_path), **{key: value})


def test_a_compiler_that_is_missing_is_named_before_the_run(rendered, tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    config = make_config(rendered, tmp_path, compile="leaves")
    with pytest.raises(ConfigError, match=r"there is no g\+\+ or clang\+\+: install one, or set compile to none"):
        require_compiler(config, torch.device("cpu"))
    require_compiler(config, torch.device("cuda"))
    require_compiler(config.model_copy(update={"compile": "none"}), torch.device("cpu"))
