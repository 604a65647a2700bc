"""A checkpoint is loaded by any number of ranks under any ZeRO stage, bit for bit, and the run goes on alike."""

import pytest
import torch

from lavie.testing import run_distributed
from tests.training.checkpoint.states import state_of
from tests.training.runs import deepspeed_json, losses, make_config, train

SMALL = {
    "max_train_steps": 4,
    "checkpointing_steps": 2,
    "train_batch_size": 12,
    "data": {"num_frames": 2, "num_images": 1, "height": 16, "width": 16},
}


@pytest.fixture(scope="module")
def straight(rendered, tmp_path_factory):
    """The config of an uninterrupted run of four steps on one rank under stage 0, with a checkpoint after two."""
    root = tmp_path_factory.mktemp("straight")
    config = make_config(rendered, root / "run", **SMALL)
    run_distributed(train, 1, config, deepspeed_json(root, 0))
    return config


@pytest.mark.slow
@pytest.mark.parametrize("chain", (((2, 3), (1, 2)), ((3, 1), (2, 0)), ((4, 3),)))
def test_other_ranks_and_stages_go_on_as_if_nothing_had_happened(straight, rendered, tmp_path, chain):
    start, step = f"{straight.output_dir}/checkpoint-2", 2
    for number, (ranks, stage) in enumerate(chain):
        last = step + 1 if number + 1 < len(chain) else 4
        config = make_config(
            rendered, tmp_path / str(number), **SMALL | {"max_train_steps": last}, resume_from_checkpoint=start
        )
        run_distributed(train, ranks, config, deepspeed_json(tmp_path, stage))
        for got, wanted in zip(losses(config), losses(straight)[step:], strict=False):
            assert got == pytest.approx(wanted, abs=1e-6)
        start, step = f"{config.output_dir}/checkpoint-{last}", last
    got, wanted = state_of(f"{config.output_dir}/checkpoint-4"), state_of(f"{straight.output_dir}/checkpoint-4")
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_what_is_loaded_is_what_was_saved_to_the_bit(straight, rendered, tmp_path):
    wanted = state_of(f"{straight.output_dir}/checkpoint-4")
    source = straight
    for ranks, stage, dtype in (
        (1, 0, "no"),
        (2, 1, "no"),
        (2, 2, "bf16"),
        (2, 3, "bf16"),
        (1, 3, "bf16"),
        (3, 3, "no"),  # from one of bf16
    ):
        config = make_config(rendered, tmp_path / f"{ranks}-{stage}-{dtype}", **SMALL, mixed_precision=dtype)
        begin = {"resume_from_checkpoint": f"{source.output_dir}/checkpoint-4", "allow_dtype_change": True}
        run_distributed(resave, ranks, config.model_copy(update=begin), deepspeed_json(tmp_path, stage))
        got = state_of(f"{config.output_dir}/checkpoint-4")
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[name], value) for name, value in wanted.items()), (ranks, stage, dtype)
        source = config


def resave(config, settings):
    """Load the checkpoint that a config names, and save it again."""
    from lavie.training.trainer import Trainer

    with Trainer(config, settings) as trainer:
        trainer.saver.save(trainer.start)
        trainer.saver.finish()
