"""Runs that train adapters: against plain PyTorch, stopped and resumed, and what their checkpoints hold."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lavie.errors import CheckpointError
from lavie.inference.exchange.export import export_stage
from lavie.inference.load import load_stage
from lavie.models.lora.adapter import adapter_state
from lavie.models.lora.read import read_lora
from lavie.models.weights import load_network
from lavie.testing import LOSS_RTOL, TOLERANCES, relative_error, run_distributed
from lavie.training.consolidate import raw_weights
from lavie.training.memory import adapted_elements, checkpoint_bytes, parameter_counts
from lavie.training.trainer import build_network
from tests.training.adapted import (
    STEPS,
    adapted_config,
    adapters,
    hashes,
    make_base,
    state,
    train_adapters,
    train_and_average,
)
from tests.training.runs import deepspeed_json, fails, losses, make_config, plain_pytorch

ADAPTER_LOSS_RTOL = 1e-4
"""Losses of a run of adapters beside one process of plain PyTorch."""


@pytest.fixture(scope="module")
def base(tmp_path_factory, rendered) -> Path:
    folder = tmp_path_factory.mktemp("base")
    return make_base(folder / "network", make_config(rendered, folder))


@pytest.fixture(scope="module")
def reference(rendered, base, tmp_path_factory):
    """The run in one plain process: its losses, its averages, and the first values of its adapters."""
    config = adapted_config(rendered, tmp_path_factory.mktemp("reference"), base, train_batch_size=4)
    start = {name: value.clone() for name, value in adapter_state(build_network(config)).items()}
    return *plain_pytorch(config), start


@pytest.fixture(scope="module")
def run(rendered, base, tmp_path_factory):
    """A run of one rank on images alone, of kohya's layers with dropout and recomputed activations, and its network."""
    folder = tmp_path_factory.mktemp("run")
    config = adapted_config(
        rendered,
        folder / "run",
        base,
        lora={"rank": 2, "alpha": 3.0, "targets": "kohya", "dropout": 0.5},
        data={"images_alone": True, "num_images": 2},
        gradient_checkpointing=True,
        checkpointing_steps=2,
    )
    averaged = folder / "averaged"
    [needed] = run_distributed(train_and_average, 1, config, deepspeed_json(folder, 2), averaged)
    return config, averaged, needed


@pytest.mark.slow
@pytest.mark.parametrize("stage", (0, 2, 3))
def test_two_ranks_train_as_plain_pytorch_and_change_nothing_else(reference, rendered, base, tmp_path, stage):
    expected, average, start = reference
    config = adapted_config(rendered, tmp_path / "run", base, train_batch_size=2)
    frozen, _ = run_distributed(train_adapters, 2, config, deepspeed_json(tmp_path, stage))
    assert losses(config) == pytest.approx(expected, rel=ADAPTER_LOSS_RTOL)

    # Every other tensor is what it was, bit for bit, and the average follows the adapters.
    network = build_network(make_config(rendered, tmp_path, init_weights=str(base)))
    assert frozen == hashes(network.state_dict())
    kept = adapters(config, STEPS)
    assert kept.keys() == start.keys()
    for name, value in kept.items():
        scale = 1.5 if "lora_B" in name else 1.0
        torch.testing.assert_close(value.double() / scale, average[name], rtol=0, atol=1e-4)

    # Every adapter has moved, and has had a gradient.
    written = state(config, STEPS)
    for name, first in start.items():
        assert (written[f"weights/{name}"].view(first.shape) != first).any(), name
        assert written[f"exp_avg/{name}"].any(), name


@pytest.mark.slow
@pytest.mark.parametrize("stage", (2, 3))
def test_all_layers_train_on_images_alone(rendered, base, tmp_path, stage):
    """With dropout, which is the same on both ranks; what it leaves out of all steps has no gradient."""
    changes = {"lora": {"rank": 2, "targets": "conv", "dropout": 0.5}, "data": {"images_alone": True, "num_images": 2}}
    config = adapted_config(rendered, tmp_path / "plain", base, train_batch_size=4, max_train_steps=2, **changes)
    expected, _ = plain_pytorch(config)
    config = adapted_config(rendered, tmp_path / "run", base, train_batch_size=2, max_train_steps=2, **changes)
    run_distributed(train_adapters, 2, config, deepspeed_json(tmp_path, stage))
    assert losses(config) == pytest.approx(expected, rel=ADAPTER_LOSS_RTOL)


def test_a_resumed_run_goes_on_bit_for_bit(run, tmp_path):
    config, *_ = run
    settings = deepspeed_json(tmp_path, 2)
    again = config.model_copy(update={"output_dir": str(tmp_path / "again")})
    shutil.copytree(Path(config.output_dir) / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    again = again.model_copy(update={"resume_from_checkpoint": "latest"})
    run_distributed(train_adapters, 1, again, settings)
    assert losses(again) == losses(config)[2:]
    first, second = state(config, STEPS), state(again, STEPS)
    assert first.keys() == second.keys() and any(key.startswith("average/") for key in first)
    assert hashes(first) == hashes(second)
    assert hashes(adapters(config, STEPS)) == hashes(adapters(again, STEPS))


def test_a_checkpoint_holds_adapters_alone_by_names_of_the_export_layout(run):
    config, *_ = run
    folder = Path(config.output_dir) / f"checkpoint-{STEPS}"
    assert not (folder / "unet").exists()
    lora = read_lora(folder / "lora", build_network(config.model_copy(update={"trainable": "all"})))
    assert len(lora.unet) == len(adapters(config, STEPS)) / 2
    held = {key.partition("/")[2] for key in state(config, STEPS)}
    assert held == set(adapters(config, STEPS))


def test_the_room_that_a_checkpoint_needs_is_known_before(run):
    config, _, needed = run
    folder = Path(config.output_dir) / f"checkpoint-{STEPS}"
    taken = sum(file.stat().st_size for name in ("lora", "state") for file in (folder / name).iterdir())
    total, trained, _ = parameter_counts(config)
    values = checkpoint_bytes(config, total, trained)
    assert values < taken
    # The layout's header and names come on top.
    assert taken == pytest.approx(needed, abs=40_000)
    assert trained == sum(value.numel() for value in adapters(config, STEPS).values())
    assert adapted_elements(config) > trained


def test_sampling_validation_and_export_have_the_same_network(run, tmp_path):
    config, averaged, _ = run
    sampler, _ = load_stage(config.output_dir)
    validated = load_network(averaged).state_dict()
    sampled = sampler.network.state_dict()
    assert validated.keys() == sampled.keys()
    for name, value in validated.items():
        assert relative_error(sampled[name], value) < TOLERANCES[torch.float32], name
    export_stage(config.output_dir, tmp_path / "export")
    exported, exported_config = load_stage(tmp_path / "export")
    assert hashes(exported.network.state_dict()) == hashes(sampled)
    assert exported_config.trainable == "all"

    # The raw weights are other ones, by the adapters alone.
    raw = raw_weights(Path(config.output_dir) / f"checkpoint-{STEPS}")
    differ = {name for name, value in raw.items() if not torch.equal(value, sampled[name])}
    assert differ and differ <= {name.replace(".lora_A", "") for name in adapters(config, STEPS)}


def test_a_base_that_is_gone_or_another_one_is_refused(run, rendered, base, tmp_path):
    config, *_ = run
    folder = tmp_path / "checkpoint"
    shutil.copytree(Path(config.output_dir) / f"checkpoint-{STEPS}" / "lora", folder / "lora")
    shutil.copy(Path(config.output_dir) / f"checkpoint-{STEPS}" / "config.yaml", folder)
    (folder / "export.json").write_text("{}")
    file = folder / "lora" / "base.json"
    said = json.loads(file.read_text())
    other = make_base(tmp_path / "other", config, seed=6)
    file.write_text(json.dumps(said | {"path": str(other)}))
    with pytest.raises(CheckpointError, match="holds adapters of other weights than those in"):
        load_stage(folder)
    file.write_text(json.dumps(said | {"path": str(tmp_path / "gone")}))
    with pytest.raises(CheckpointError, match="are gone: put them back"):
        load_stage(folder)

    # A run that goes on says so too, and whoever starts a run from adapters is told how.
    elsewhere = config.model_copy(
        update={
            "init_weights": str(other),
            "output_dir": str(tmp_path / "run"),
            "resume_from_checkpoint": f"{config.output_dir}/checkpoint-{STEPS}",
        }
    )
    [message] = run_distributed(fails, 1, elsewhere, deepspeed_json(tmp_path, 2))
    assert "holds adapters of other weights" in message
    start = make_config(rendered, tmp_path / "next", init_weights=config.output_dir)
    with pytest.raises(CheckpointError, match="lavie export"):
        build_network(start)


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_the_same_losses(run, tmp_path):
    config, *_ = run
    shutil.copytree(Path(config.output_dir) / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    again = config.model_copy(update={"output_dir": str(tmp_path / "again"), "resume_from_checkpoint": "latest"})
    run_distributed(train_adapters, 2, again, deepspeed_json(tmp_path, 3))
    assert losses(again) == pytest.approx(losses(config)[2:], rel=LOSS_RTOL)
