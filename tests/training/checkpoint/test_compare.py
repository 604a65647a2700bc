"""What a resumed run must keep, what it may change, and how ranks share the batch of its checkpoint."""

import pytest

from lavie.errors import CheckpointError
from lavie.training.checkpoint import compare
from lavie.training.checkpoint.compare import require_same_config, require_same_engine, same_global_batch
from tests.training.runs import make_config


@pytest.fixture
def saved(rendered, tmp_path):
    """Return the config of a run of eight steps on a cosine."""
    return make_config(rendered, tmp_path / "run", max_train_steps=8, lr_scheduler="cosine", learning_rate=1e-4)


@pytest.mark.parametrize(
    "key, value, was",
    (
        ("stage", "interpolation", "base"),
        ("trainable", "temporal", "all"),
        ("use_ema", False, "True"),
        ("prediction_type", "v_prediction", "epsilon"),
        ("snr_gamma", 5.0, "None"),
        ("rescale_betas_zero_snr", True, "False"),
    ),
)
def test_what_a_resumed_run_must_keep_is_refused_by_name(saved, key, value, was):
    with pytest.raises(CheckpointError, match=rf"checkpoint-4: {key} was {was}, .* says {value}: set {key} to {was}"):
        require_same_config("checkpoint-4", saved, saved.model_copy(update={key: value}), 4)


def test_an_option_of_a_section_is_named(saved):
    other = saved.autoencoder.model_copy(update={"scaling_factor": 0.5})
    with pytest.raises(CheckpointError, match=r"autoencoder.scaling_factor was 0.25, this run's config says 0.5"):
        require_same_config("it", saved, saved.model_copy(update={"autoencoder": other}), 4)


@pytest.mark.parametrize(
    "changes, words",
    (
        ({}, None),
        # After 3 steps of warm-up, steps 4 and 5 of 8 (and of 13) are the first and second of a half cosine of 5 (10).
        ({"max_train_steps": 13}, "at step 5 is 9.76e-05, at step 4 it was 0.0001: max_train_steps was 8, now 13"),
        (
            {"learning_rate": 3e-4},
            "at step 5 is 0.000271, at step 4 it was 0.0001: learning_rate was 0.0001, now 0.0003",
        ),
        (
            {"lr_scheduler": "constant", "lr_warmup_steps": 50},
            "at step 5 is 1e-05, at step 4 it was 0.0001: lr_scheduler was cosine, now constant, "
            "lr_warmup_steps was 3, now 50",
        ),
    ),
)
def test_a_learning_rate_that_jumps_is_told(saved, caplog, changes, words):
    require_same_config("it", saved, saved.model_copy(update=changes), 4)
    told = [r.getMessage() for r in caplog.records if "learning_rate at step" in r.getMessage()]
    assert told == ([f"it: learning_rate {words}"] if words else [])


def test_a_longer_run_of_a_constant_rate_jumps_nowhere(saved, caplog):
    constant = saved.model_copy(update={"lr_scheduler": "constant"})
    require_same_config("it", constant, constant.model_copy(update={"max_train_steps": 100}), 4)
    assert not caplog.text


def test_settings_of_the_optimizer_that_change_are_told(saved, caplog):
    require_same_config("it", saved, saved.model_copy(update={"adam_weight_decay": 0.9, "max_grad_norm": 2.0}), 4)
    assert [r.getMessage() for r in caplog.records] == [
        "it: adam_weight_decay was 0.01, from step 5 on it is 0.9",
        "it: max_grad_norm was 0.5, from step 5 on it is 2.0",
    ]


def test_data_that_changes_is_told_but_for_samples_left_out(saved, caplog):
    same = {"exclude": ("a",), "num_workers": 7, "timeout": 9.0, "verify": "never", "validation": ("elsewhere",)}
    for update in (same, {"frame_stride": 2}):
        caplog.clear()
        changed = saved.model_copy(update={"data": saved.data.model_copy(update=update)})
        require_same_config("it", saved, changed, 4)
        told = "it: data.frame_stride differs from the checkpoint's: the data goes on in another way"
        assert caplog.messages == ([told] if "frame_stride" in update else [])


def test_another_batch_is_told_and_the_same_one_in_other_parts_is_not(saved, monkeypatch, caplog):
    monkeypatch.setattr(compare, "world_size", lambda: 1)
    manifest = {"global_batch": saved.train_batch_size}
    parts = saved.model_copy(update={"train_batch_size": 1, "gradient_accumulation_steps": saved.train_batch_size})
    assert same_global_batch("it", manifest, saved, parts) == parts
    assert not caplog.messages
    more = saved.model_copy(update={"train_batch_size": 5})
    assert same_global_batch("it", manifest, saved, more) == more
    assert "this run takes 5, and so other samples" in caplog.text


def test_what_changes_the_meaning_of_the_loss_is_refused(saved):
    with pytest.raises(CheckpointError, match=r"keyframe_interval was 4, .* says 8: set keyframe_interval to 4"):
        require_same_config("it", saved, saved.model_copy(update={"keyframe_interval": 8}), 4)


@pytest.mark.parametrize(
    "ranks, micro, accumulation",
    ((1, 6, 2), (2, 6, 1), (3, 4, 1), (4, 3, 1), (6, 2, 1), (12, 1, 1)),
)
def test_any_number_of_ranks_shares_the_batch(saved, monkeypatch, ranks, micro, accumulation):
    monkeypatch.setattr(compare, "world_size", lambda: ranks)
    asked = saved.model_copy(update={"train_batch_size": 6})
    got = same_global_batch("it", {"global_batch": 12}, asked, asked)
    assert (got.train_batch_size, got.gradient_accumulation_steps) == (micro, accumulation)
    assert micro * accumulation * ranks == 12


def test_ranks_that_cannot_share_the_batch_are_refused(saved, monkeypatch):
    monkeypatch.setattr(compare, "world_size", lambda: 5)
    with pytest.raises(CheckpointError, match=r"5 ranks cannot share the batch of 12 clips .* start 1, 2, 3, 4, 6, 12"):
        same_global_batch("it", {"global_batch": 12}, saved, saved)
    # Who asks for another batch gets it.
    other = saved.model_copy(update={"train_batch_size": 7})
    assert same_global_batch("it", {"global_batch": 12}, saved, other) == other


def test_another_dtype_needs_a_key(saved):
    manifest = {"dtype": "bfloat16", "optimizer": "adamw", "world_size": 1, "zero_stage": 3}
    with pytest.raises(CheckpointError, match=r"set mixed_precision to bf16, or allow_dtype_change to true"):
        require_same_engine("it", manifest, saved, 3)
    require_same_engine("it", manifest, saved.model_copy(update={"allow_dtype_change": True}), 3)


def test_moments_in_blocks_need_the_ranks_that_saved_them(saved):
    manifest = {"dtype": "float32", "optimizer": "adamw_8bit", "world_size": 2, "zero_stage": 3}
    with pytest.raises(CheckpointError, match=r"of the 2 ranks under ZeRO stage 3 .* this run has 1 under stage 3"):
        require_same_engine("it", manifest, saved, 3)
    require_same_engine("it", manifest | {"world_size": 1}, saved, 3)
