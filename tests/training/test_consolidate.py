"""Raw weights out of checkpoints: every bit of what the ranks held, for every ZeRO stage, frozen parameters too."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lavie.cli import main as cli
from lavie.errors import CheckpointError
from lavie.models.weights import read_folder
from lavie.testing import run_distributed
from lavie.training.consolidate import raw_weights
from tests.training.runs import deepspeed_json, make_config

STAGES = (0, 1, 2, 3)
TEMPORAL = {"mixed_precision": "bf16", "trainable": "temporal"}
"""The hardest case: float32 masters beside bf16 weights, and parameters that no optimizer holds."""


def held(trainer) -> dict[str, torch.Tensor]:
    """The weights that the ranks hold together, float32 where they train. All ranks call it."""
    from lavie.training.ema import gathered_weights

    weights = dict(gathered_weights(trainer.engine.module, None))
    return {name: weight.detach().clone().contiguous() for name, weight in weights.items()}


def train_all(cases: list) -> None:
    """Two steps of every (config, DeepSpeed's settings); rank 0 writes what was held beside the checkpoint."""
    from lavie.distributed import is_main
    from lavie.training.trainer import Trainer

    for config, settings in cases:
        trainer = Trainer(config, settings)
        trainer.fit()
        weights = held(trainer)
        if is_main():
            save_file(weights, Path(config.output_dir) / "held.safetensors")


@pytest.fixture(scope="module")
def runs(rendered, tmp_path_factory):
    """A folder with runs RANKS-STAGE, of the hardest case, and 2-whole: float32, everything trains, ZeRO-0."""
    root = tmp_path_factory.mktemp("runs")
    common = {
        "max_train_steps": 2,
        "train_batch_size": 1,
        "data": {"num_frames": 2, "num_images": 0, "height": 16, "width": 16},
    }
    for ranks in (1, 2):
        cases = [
            (make_config(rendered, root / f"{ranks}-{stage}", **common, **TEMPORAL), deepspeed_json(root, stage))
            for stage in STAGES
        ]
        if ranks == 2:
            cases.append((make_config(rendered, root / "2-whole", **common), deepspeed_json(root, 0)))
        run_distributed(train_all, ranks, cases)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("run", (*(f"{ranks}-{stage}" for ranks in (1, 2) for stage in STAGES), "2-whole"))
def test_raw_weights_are_what_the_ranks_held(runs, run):
    expected = load_file(runs / run / "held.safetensors")
    weights = raw_weights(runs / run / "checkpoint-2")
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert weights[name].dtype == torch.float32, name
        assert torch.equal(weights[name], value), name
    averaged = read_folder(runs / run / "checkpoint-2" / "unet")
    trained = {name for name in averaged if not torch.equal(averaged[name], weights[name])}
    rounded = {name for name in averaged if torch.equal(weights[name], weights[name].bfloat16().float())}
    assert any("attn_temp." in name for name in trained)
    assert "conv_in.weight" in (trained if run == "2-whole" else rounded)  # frozen in bf16
    assert any("attn_temp." in name for name in averaged.keys() - rounded)  # more bits than the network computes with


def test_damaged_states_are_refused(runs, tmp_path):
    for run, file in (("2-3", "rank-00001-of-00002.safetensors"), ("1-1", "rank-00000-of-00001.safetensors")):
        folder = tmp_path / run
        shutil.copytree(runs / run / "checkpoint-2", folder / "checkpoint-2")
        (folder / "checkpoint-2" / "state" / file).unlink()
        with pytest.raises(CheckpointError, match=rf"{folder}/checkpoint-2/state/{file}: is missing; export another"):
            raw_weights(folder / "checkpoint-2")


def test_the_command_exports_raw_weights(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lavie", "export", str(runs / "2-3"), str(tmp_path / "out"), "--raw"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code in (None, 0)
    expected = load_file(runs / "2-3" / "held.safetensors")
    got = read_folder(tmp_path / "out" / "unet")
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in got)
    assert "| weights | those of the last step, not averaged |" in (tmp_path / "out" / "README.md").read_text()
