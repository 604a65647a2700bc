"""The run as a whole: against plain PyTorch, against itself, on one rank and two, stopped and resumed."""

import json
import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import torch

from lavie.config.load import load_config
from lavie.config.train import TrainConfig
from lavie.data.shards.index import load_index
from lavie.models.trainable import is_temporal
from lavie.testing import KERNEL_LOSS_RTOL, LOSS_RTOL, TOLERANCES, run_distributed
from lavie.training.record import WARM_UP
from tests.training.runs import (
    STEPS,
    deepspeed_json,
    draw_nothing,
    fails,
    losses,
    make_config,
    make_vsr_config,
    plain_pytorch,
    records,
    train,
    weight_hashes,
    weights,
)


@pytest.fixture(scope="module")
def reference(rendered: Path, tmp_path_factory: pytest.TempPathFactory):
    config = make_config(rendered, tmp_path_factory.mktemp("reference"), train_batch_size=4)
    return plain_pytorch(config)


@pytest.mark.slow
@pytest.mark.parametrize("stage, ranks", ((3, 2), (2, 2), (1, 2), (0, 2)))
def test_same_losses_and_average_as_plain_pytorch(reference, rendered, tmp_path, stage, ranks):
    expected, average = reference
    config = make_config(rendered, tmp_path / "run", train_batch_size=4 // ranks)
    run_distributed(train, ranks, config, deepspeed_json(tmp_path, stage))
    assert losses(config) == pytest.approx(expected, rel=LOSS_RTOL)
    got = weights(config, STEPS)
    assert got.keys() == average.keys()
    for name, value in average.items():
        # A moment near zero makes Adam's step a matter of its sign: the bound is a part of the way the weights went.
        bound = 1e-2 * config.learning_rate * STEPS
        assert (got[name].double() - value).abs().max() < bound, name


@pytest.mark.slow
def test_gradient_accumulation_equals_one_large_batch(reference, rendered, tmp_path):
    config = make_config(rendered, tmp_path / "run", train_batch_size=1, gradient_accumulation_steps=2)
    run_distributed(train, 2, config, deepspeed_json(tmp_path, 3))
    assert losses(config) == pytest.approx(reference[0], rel=LOSS_RTOL)


@pytest.mark.long
def test_kernels_follow_plain_pytorch(rendered, tmp_path):
    """The smoke stage, smaller still: 4 steps with the Triton kernels, interpreted where there is no GPU."""
    pytest.importorskip("triton")
    tiny = ["data.height=8", "data.width=8", "data.num_frames=2", "train_batch_size=1", "max_train_steps=4"]
    tiny += ["model.block_out_channels=[32]", "model.cross_attention=[false]", "model.num_attention_heads=1"]
    tiny += [
        "model.norm_num_groups=1",
        "data.num_images=0",
        "learning_rate=1e-3",
        "lr_scheduler=constant",
        "lr_warmup_steps=0",
        f"data.train={rendered}/train",
        "data.num_workers=0",
    ]
    values = {}
    for backend in ("torch", "triton"):
        config = load_config("configs/smoke/base.yaml", [*tiny, f"output_dir={tmp_path}", f"kernels={backend}"])
        values[backend], _ = plain_pytorch(config)
    assert values["triton"] == pytest.approx(values["torch"], rel=KERNEL_LOSS_RTOL)
    assert values["triton"] != values["torch"]


@pytest.mark.slow
def test_bf16_follows_float32(reference, rendered, tmp_path):
    config = make_config(rendered, tmp_path / "run", mixed_precision="bf16", max_train_steps=5)
    run_distributed(train, 2, config, deepspeed_json(tmp_path, 3))
    assert losses(config) == pytest.approx(reference[0][:5], rel=TOLERANCES[torch.bfloat16])
    assert losses(config) != pytest.approx(reference[0][:5], rel=LOSS_RTOL)


@pytest.mark.slow
def test_the_first_update_in_bf16_is_whole_in_every_stage(rendered, tmp_path):
    """Adam's first update is the learning rate, but for rounding; DeepSpeed's stage 0 begins with a step of its own."""
    start = make_config(rendered, tmp_path / "0", mixed_precision="bf16", lr_warmup_steps=0, max_train_steps=1)
    other = start.model_copy(update={"output_dir": str(tmp_path / "2")})
    for stage, config in ((0, start), (2, other)):
        run_distributed(train, 1, config, deepspeed_json(tmp_path, stage))
    found, wanted = weights(start, 1), weights(other, 1)
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0.02 * start.learning_rate, msg=name)


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    common = {"max_train_steps": 6, "checkpointing_steps": 2, "gradient_checkpointing": True}
    whole = make_config(rendered, tmp_path / "whole", **common)
    stopped = make_config(rendered, tmp_path / "stopped", **common)
    run_distributed(train, 2, whole, settings)
    run_distributed(train, 2, stopped.model_copy(update={"max_train_steps": 4}), settings)
    resumed = stopped.model_copy(update={"resume_from_checkpoint": "latest"})
    run_distributed(train, 2, resumed, settings)
    assert losses(resumed) == losses(whole)
    assert [r["step"] for r in records(resumed)] == [1, 2, 3, 4, 5, 6]
    assert weight_hashes(resumed, 6) == weight_hashes(whole, 6)
    # From an earlier folder by name: the later steps are written again.
    earlier = resumed.model_copy(update={"resume_from_checkpoint": f"{stopped.output_dir}/checkpoint-2"})
    run_distributed(train, 2, earlier, settings)
    assert losses(earlier) == losses(whole)
    assert weight_hashes(earlier, 6) == weight_hashes(whole, 6)


@pytest.mark.slow
def test_never_starts_from_zero_when_resume_was_asked_for(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    config = make_config(rendered, tmp_path / "run", max_train_steps=1)
    for asked in ("latest", str(tmp_path / "nothing")):
        [message] = run_distributed(fails, 1, config.model_copy(update={"resume_from_checkpoint": asked}), settings)
        assert "resume_from_checkpoint" in message
        assert "null" in message
    run_distributed(train, 1, config, settings)
    resumed = config.model_copy(update={"resume_from_checkpoint": "latest", "max_train_steps": 2})
    other = resumed.model_copy(update={"model": resumed.model.model_copy(update={"relative_bias": False})})
    [message] = run_distributed(fails, 1, other, settings)
    assert "model.relative_bias was True" in message

    # Two ranks under another stage and in another precision take the same state on, batch by batch.
    bf16 = resumed.model_copy(update={"mixed_precision": "bf16"})
    [message] = run_distributed(fails, 1, bf16, settings)
    assert "float32" in message
    assert "mixed_precision to no, or allow_dtype_change to true" in message
    bf16 = bf16.model_copy(update={"allow_dtype_change": True})
    run_distributed(train, 2, bf16, deepspeed_json(tmp_path, 2))
    assert [record["step"] for record in records(config)] == [1, 2]


def moved_by_the_temporal_set(make: Callable[..., TrainConfig], rendered: Path, folder: Path, steps: int) -> set[str]:
    """Train a step of everything, then `steps` of the temporal set from there, under ZeRO-3: what these changed."""
    settings = deepspeed_json(folder, 3)
    first = make(rendered, folder / "first", max_train_steps=1)
    run_distributed(train, 2, first, settings)
    begin = {"trainable": "temporal", "init_weights": f"{first.output_dir}/checkpoint-1"}
    second = make(rendered, folder / "second", max_train_steps=steps, **begin)
    run_distributed(train, 2, second, settings)
    before, after = weights(first, 1), weights(second, steps)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.slow
def test_the_temporal_set_leaves_spatial_weights_alone(rendered, tmp_path):
    changed = moved_by_the_temporal_set(make_config, rendered, tmp_path, steps=3)
    assert changed
    assert all(is_temporal(name) for name in changed)


@pytest.mark.slow
def test_super_resolution_trains_its_temporal_part_alone(rendered, tmp_path):
    """Spatial weights keep every bit, every kind of temporal block moves."""
    changed = moved_by_the_temporal_set(make_vsr_config, rendered, tmp_path, steps=4)
    assert all(is_temporal(name) for name in changed)
    for kind in ("resblock_temporal", "shift_conv", "attn_temp."):
        assert any(kind in name for name in changed), kind


@pytest.mark.slow
def test_interpolation_starts_from_base_weights(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    base = make_config(rendered, tmp_path / "base", max_train_steps=1)
    run_distributed(train, 1, base, settings)
    data = {"num_frames": 5, "num_images": 0}
    model = base.model.model_dump() | {"in_channels": 6, "relative_bias": False}
    config = make_config(
        rendered,
        tmp_path / "run",
        stage="interpolation",
        model=model,
        data=data,
        max_train_steps=2,
        init_weights=base.output_dir,
    )
    run_distributed(train, 2, config, settings)
    start, end = weights(base, 1), weights(config, 2)
    assert end["conv_in.weight"].shape[1] == 6
    assert end["conv_in.weight"][:, 3:].any()
    assert {n for n in start if n not in end} == {n for n in start if "time_rel_pos_bias" in n}
    # Two small steps away from where it started: the base network's weights, not a fresh draw.
    assert all((end[n][:, :3] - start[n][:, :3]).abs().max() < 0.1 for n in ("conv_in.weight",))
    assert len(losses(config)) == 2


@pytest.mark.slow
def test_validation_is_entered_by_all_ranks_and_does_not_disturb_training(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    quiet = make_config(rendered, tmp_path / "quiet", max_train_steps=4)
    busy = make_config(
        rendered,
        tmp_path / "busy",
        max_train_steps=4,
        validation_steps=2,
        validate_at_start=True,
        validation_batches=2,
        validation_prompts=("a red circle",),
        data={"validation": str(rendered / "validation")},
    )
    run_distributed(train, 2, quiet, settings)
    run_distributed(train, 2, busy, settings, draw_nothing)
    assert losses(busy) == losses(quiet)
    assert weight_hashes(busy, 4) == weight_hashes(quiet, 4)
    for step in (0, 2, 4):
        folder = tmp_path / "busy" / "samples" / f"step-{step:06d}"
        assert sorted(p.name for p in folder.iterdir()) == ["rank0", "rank1"]
    scores = {r["step"]: r["validation_loss"] for r in records(busy) if "validation_loss" in r}
    assert scores.keys() == {0, 2, 4}
    assert len(set(scores.values())) == 3

    alone = make_config(
        rendered,
        tmp_path / "alone",
        max_train_steps=4,
        train_batch_size=4,
        validation_steps=2,
        validate_at_start=True,
        validation_batches=2,
        data={"validation": str(rendered / "validation")},
    )
    run_distributed(train, 1, alone, settings)
    assert {r["step"]: r["validation_loss"] for r in records(alone) if "validation_loss" in r} == pytest.approx(
        scores, rel=LOSS_RTOL
    )


@pytest.mark.slow
def test_a_resumed_run_keeps_the_validation_before_the_first_step(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 2)
    config = make_config(
        rendered,
        tmp_path / "run",
        max_train_steps=1,
        validate_at_start=True,
        validation_batches=1,
        validation_prompts=("a red circle",),
        data={"validation": str(rendered / "validation")},
    )
    run_distributed(train, 1, config, settings, draw_nothing)
    before = [r for r in records(config) if r["step"] == 0]
    assert len(before) == 1
    drawn = tmp_path / "run" / "samples" / "step-000000" / "rank0"
    drawn.unlink()
    resumed = config.model_copy(update={"resume_from_checkpoint": "latest", "max_train_steps": 2})
    run_distributed(train, 1, resumed, settings, draw_nothing)
    assert [r["step"] for r in records(resumed)] == [0, 1, 1, 2, 2]
    assert [r for r in records(resumed) if r["step"] == 0] == before
    assert not drawn.exists()

    # Cut off in the validation of its last step, the run makes it up.
    metrics, whole = tmp_path / "run" / "metrics.jsonl", records(resumed)
    metrics.write_text("".join(f"{json.dumps(record)}\n" for record in whole[:-1]))
    run_distributed(train, 1, resumed, settings, draw_nothing)
    assert [r["step"] for r in records(resumed)] == [0, 1, 1, 2, 2]
    assert records(resumed)[-1]["validation_loss"] == whole[-1]["validation_loss"]
    run_distributed(train, 1, resumed, settings, draw_nothing)
    assert len(records(resumed)) == 5


@pytest.mark.slow
def test_a_package_of_report_to_is_missed_before_the_run_has_a_folder(rendered, tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("raise ImportError('it is broken')")
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config(rendered, tmp_path / "run", max_train_steps=1, report_to=("wandb",))
    messages = run_distributed(fails, 2, config, deepspeed_json(tmp_path, 2))
    assert all("report_to names wandb" in message and "it is broken" in message for message in messages)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_records_hold_every_field_with_the_same_values_in_every_stage(rendered, tmp_path):
    norms = {}
    for stage in (0, 1):
        config = make_config(rendered, tmp_path / f"{stage}", max_train_steps=3)
        run_distributed(train, 1, config, deepspeed_json(tmp_path, stage))
        for record in records(config):
            assert list(record) == [
                *("step", "time", "epoch", "loss", "loss_video", "loss_image", "grad_norm", "lr", "seconds"),
                *("samples_per_s", "tflops", "mfu", "data_wait_s", "dropped", "skipped", "spikes"),
                *("memory", "device", "ettr"),
            ]
            assert record["loss"] == pytest.approx(record["loss_video"] + record["loss_image"])
            assert record["memory"] > 0
            if record["step"] <= WARM_UP:
                assert record["samples_per_s"] is record["tflops"] is record["mfu"] is None
            else:
                assert record["tflops"] > 0
                assert record["samples_per_s"] == pytest.approx(config.train_batch_size / record["seconds"])
            assert abs(datetime.fromisoformat(record["time"]).timestamp() - time.time()) < 600
        norms[stage] = [record["grad_norm"] for record in records(config)]
        assert [record["epoch"] for record in records(config)] == [round(step * 2 / 24, 4) for step in (1, 2, 3)]
    # Without ZeRO nothing but the trainer computes the norm.
    assert norms[0] == pytest.approx(norms[1], rel=LOSS_RTOL) and min(norms[0]) > 0


@pytest.mark.slow
def test_weights_that_have_diverged_stop_every_rank_and_are_not_saved(rendered, tmp_path):
    changes = dict(learning_rate=1e30, lr_warmup_steps=0, max_grad_norm=0, max_skipped_steps=3, checkpointing_steps=3)
    config = make_config(rendered, tmp_path / "run", **changes)
    messages = run_distributed(fails, 2, config, deepspeed_json(tmp_path, 3))
    assert all("step 4: the last 3 steps were left out" in m and "lower learning_rate" in m for m in messages)
    assert all("there is no checkpoint from before step 2" in m for m in messages)
    assert not list(Path(config.output_dir).glob("checkpoint-*"))


def told(config: TrainConfig, settings: Path) -> list[str]:
    """What a rank logs about captions and prompts that are too long, from its start to its end."""
    from lavie.inference.generate import validation_sampler
    from lavie.training.trainer import Trainer

    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("lavie").addHandler(handler)
    Trainer(config, settings, validation_sampler(config)).fit()
    return [message for message in messages if "long" in message]


@pytest.mark.slow
def test_a_run_tells_once_what_its_text_encoder_never_reads(rendered, tmp_path):
    config = make_config(
        rendered,
        tmp_path / "run",
        text_encoder={"type": "hash", "max_length": 3},
        max_train_steps=2,
        validation_steps=1,
        validation_prompts=("a red circle",),
        sampling={"num_inference_steps": 2},
    )
    first, other = run_distributed(told, 2, config, deepspeed_json(tmp_path, 1))
    samples = [sample.caption for sample in load_index([str(rendered / "train")])]
    long = sum(len(caption.split()) > 2 for caption in samples)
    assert long > 12
    assert other == []
    assert first == [
        f"data: long caption: {long} of {len(samples)} have more than 2 words; the text encoder reads the first 2",
        "prompt 'a red circle' is too long: the network never sees its end, 'circle'",
    ]
