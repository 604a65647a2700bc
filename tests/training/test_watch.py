"""Bad steps are left out in every ZeRO stage and dtype, named and counted; too many in a row end the run."""

import json
import shlex
from pathlib import Path

import pytest

from lavie.testing import run_distributed
from tests.training.injected import SMALL, run
from tests.training.runs import deepspeed_json, make_config

FAULTS = {(2, 0, 0): "loss", (3, -1, 0): "gradient", (4, 0, -1): "infinite loss"}
"""By step, rank and micro-batch, of which -1 is the last."""


def in_all_stages(folder: Path, settings: list[Path], dtype: str, ranks: int) -> list[list[dict]]:
    """Run with FAULTS, and with their steps left out by hand, under the settings of each ZeRO stage."""
    results = []
    for stage, path in enumerate(settings):
        # Without ZeRO, bf16 does not add up over micro-batches.
        micro = 1 if stage == 0 and dtype == "bf16" else 2
        faults = {(step, rank % ranks, number % micro): kind for (step, rank, number), kind in FAULTS.items()}
        runs = []
        for by_hand in (False, True):
            output = folder.parent / f"{folder.name}-{dtype}-{ranks}-{stage}-{by_hand}"
            changes = SMALL | {"mixed_precision": dtype, "gradient_accumulation_steps": micro}
            config = make_config(folder, output, **changes)
            runs.append(run(config, path, faults, by_hand))
        results.append(runs)
    return results


@pytest.mark.long
@pytest.mark.parametrize("dtype, ranks", (("no", 2), ("bf16", 1)))
def test_exactly_the_bad_steps_are_left_out_bit_for_bit(rendered, tmp_path, dtype, ranks):
    (tmp_path / "data").symlink_to(rendered)
    settings = [deepspeed_json(tmp_path, stage) for stage in range(4)]
    for of_rank in run_distributed(in_all_stages, ranks, tmp_path / "data", settings, dtype, ranks):
        for stage, (faulty, by_hand) in enumerate(of_rank):
            assert faulty["error"] == "", stage
            assert faulty["state"] == by_hand["state"], stage
            assert [r.get("fault") for r in faulty["records"]] == [None, "loss", "gradient", "loss", None], stage
            assert [r["skipped"] for r in faulty["records"]] == [0, 1, 2, 3, 3], stage
            good = [(r["loss"], r["lr"], r["grad_norm"]) for r in faulty["records"] if "fault" not in r]
            assert good == [(r["loss"], r["lr"], r["grad_norm"]) for r in by_hand["records"] if "fault" not in r]
            assert [r["loss"] is None for r in faulty["records"]] == [False, True, False, True, False], stage


def a_row(folder: Path, settings: Path) -> list[dict]:
    """A run that ends in a row of bad steps, one that is resumed into it, and one with a spike and its resumption."""
    bad = {(step, 1, 0): "loss" for step in (3, 4, 6, 7, 8)}
    row = SMALL | {"max_train_steps": 10, "max_skipped_steps": 3, "checkpointing_steps": 2}
    ended = run(make_config(folder, folder.parent / "row", **row), settings, bad)
    short = make_config(folder, folder.parent / "short", **row | {"max_train_steps": 7})
    first = run(short, settings, bad)
    again = short.model_copy(update={"max_train_steps": 10, "resume_from_checkpoint": "latest"})
    return [ended, first, run(again, settings, bad)]


@pytest.mark.slow
def test_a_row_of_bad_steps_ends_the_run_and_is_not_saved(rendered, tmp_path):
    (tmp_path / "data").symlink_to(rendered)
    main, other = run_distributed(a_row, 2, tmp_path / "data", deepspeed_json(tmp_path, 3))
    ended, first, resumed = main

    # Two bad steps and a good one between them do not end it, three do, on all ranks with the same message.
    assert ended["error"] == other[0]["error"]
    assert "step 8: the last 3 steps were left out (max_skipped_steps), from step 6 on" in ended["error"]
    assert f"the last good checkpoint is {tmp_path / 'row' / 'checkpoint-5'}" in ended["error"]
    assert [record["step"] for record in ended["records"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert ended["records"][-1]["skipped"] == 5

    # The checkpoints of steps 4, 6 and 8 wait for a good step.
    assert sorted(path.name for path in (tmp_path / "row").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-5"]

    # The last step of a run is saved whatever it was; a run that goes on from there counts the row from its records.
    assert first["error"] == ""
    assert "step 8: the last 3 steps were left out" in resumed["error"]


@pytest.mark.slow
def test_the_message_names_rank_positions_keys_and_module(rendered, tmp_path):
    (tmp_path / "data").symlink_to(rendered)
    config = make_config(tmp_path / "data", tmp_path / "run", **SMALL | {"max_train_steps": 3})
    faults = {(2, 1, 0): "loss", (3, 0, 0): "gradient"}
    of_ranks = run_distributed(run, 2, config, deepspeed_json(tmp_path, 2), faults)
    [loss, gradient] = of_ranks[0]["log"]
    assert of_ranks[1]["log"] == []
    assert loss.startswith("step 2: the loss is not finite")
    assert "To blame: position 3 on rank 1: 0000" in loss
    assert gradient.startswith("step 3: the gradient is not finite from conv_out on")
    assert "To blame: position 4 on rank 0: 0000" in gradient

    # What the message says to write names the samples that it blames: a clip and its image.
    [word] = shlex.split(loss.partition("To leave out what comes again: ")[2])
    keys = json.loads(word.removeprefix("data.exclude="))
    assert len(keys) == 2
    assert ", ".join(keys) in loss


def with_a_spike(folder: Path, settings: Path) -> list[dict]:
    """Run with a NaN and a spike, the same stopped between the two and resumed, and one that leaves the spike out."""
    faults = {(23, 0, 0): "loss", (26, 0, 0): "large"}
    longer = SMALL | {"max_train_steps": 28, "learning_rate": 1e-4, "checkpointing_steps": 24}
    whole = run(make_config(folder, folder.parent / "whole", **longer), settings, faults)
    stopped = make_config(folder, folder.parent / "stopped", **longer)
    run(stopped.model_copy(update={"max_train_steps": 24}), settings, faults)
    resumed = run(stopped.model_copy(update={"resume_from_checkpoint": "latest"}), settings, faults)
    careful = make_config(folder, folder.parent / "careful", **longer, skip_spikes=True)
    return [whole, resumed, run(careful, settings, faults)]


@pytest.mark.slow
def test_one_spike_and_one_nan_are_told_once_each_and_alike_after_a_resumption(rendered, tmp_path):
    (tmp_path / "data").symlink_to(rendered)
    [runs] = run_distributed(with_a_spike, 1, tmp_path / "data", deepspeed_json(tmp_path, 1))
    whole, resumed, careful = runs
    for one, skipped in ((whole, 1), (resumed, 1), (careful, 2)):
        found = {record["step"]: record["fault"] for record in one["records"] if "fault" in record}
        assert found == {23: "loss", 26: "skipped spike" if one is careful else "spike"}
        assert one["records"][-1]["spikes"] == 1
        assert one["records"][-1]["skipped"] == skipped
    assert resumed["state"] == whole["state"] != careful["state"]

    # The line tells what is usual, what is done, and whose the step was.
    [_, told] = whole["log"]
    assert told == resumed["log"][-1]
    assert told.startswith("step 26: a spike: the loss is ")
    assert "the update is made, clipped to max_grad_norm 0.5. To blame: position 25 on rank 0: 0000" in told
    assert "the weights stay as they are (skip_spikes)" in careful["log"][1]
