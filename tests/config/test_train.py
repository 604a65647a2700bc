"""The configs that ship are the runs they claim to be, and contradictions are told before anything runs."""

import json

import pytest

from lavie.config.load import load_config
from lavie.config.overrides import merge
from lavie.config.stages import STAGES
from lavie.errors import ConfigError
from lavie.training.deepspeed import resolve_json
from tests.config.values import BASE, BUCKET, ROOT, assert_told, faults

SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))
JSONS = sorted((ROOT / "configs").glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_shipped_configs_load_and_agree_with_every_deepspeed_json(path):
    config = load_config(path)
    for file in JSONS:
        resolved = resolve_json(file, config, world_size=3)
        assert resolved["train_batch_size"] == 3 * config.train_batch_size * config.gradient_accumulation_steps
        assert "auto" not in json.dumps(resolved)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_shipped_configs_open_with_their_command(path):
    opening = path.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in opening.splitlines())
    assert "train.py" in opening and str(path.relative_to(ROOT)) in opening


@pytest.mark.parametrize("name", ("base.yaml", "base_quality.yaml"))
def test_the_full_size_runs_are_the_papers(name):
    config = load_config(ROOT / "configs" / name)
    assert config.model == STAGES["base"].network
    assert (config.data.num_frames, config.data.num_images, config.data.height, config.data.width) == (16, 4, 320, 512)


def test_the_second_run_starts_where_the_first_ends():
    first, second = (load_config(ROOT / "configs" / name) for name in ("base.yaml", "base_quality.yaml"))
    assert second.init_weights == f"{first.output_dir}/checkpoint-{first.max_train_steps}"
    assert second.output_dir != first.output_dir


@pytest.mark.parametrize(
    "change, words",
    (
        ({"train_batch_size": 0}, ["train_batch_size", "got 0"]),
        ({"trainable": "lora"}, ["trainable is lora", "init_weights is null"]),
        ({"lora": {"rank": 8}}, ["lora is set, and trainable is all"]),
        ({"trainable": "lora", "init_weights": "x", "lora": {"targets": "all"}}, ["lora.targets", 'got "all"']),
        ({"data": {"images_alone": True, "num_images": 0}}, ["images_alone is true and num_images is 0"]),
        ({"learning_rate": "fast"}, ["learning_rate", 'got "fast"']),
        ({"learning_rate": float("inf")}, ["learning_rate", "finite"]),
        ({"mixed_precision": "fp8"}, ["mixed_precision", "bf16", 'got "fp8"']),
        ({"data": {"frame_stride": 2}}, ["data", "fps (got 8.0)", "frame_stride (got 2)"]),
        ({"data": {"fps": None}}, ["data", "fps (got None)", "frame_stride (got None)"]),
        ({"data": {"height": 30}}, ["data.height", "30 x 32", "multiples of 4"]),
        (
            {"data": {"buckets": [BUCKET, BUCKET | {"width": 30}]}},
            ["data.buckets", "16x32x30", "32 x 30", "multiples of 4"],
        ),
        ({"autoencoder": {"type": "diffusers"}}, ["autoencoder.type", "pretrained_model_name_or_path"]),
        ({"text_encoder": {"type": "clip"}}, ["text_encoder.type", "pretrained_model_name_or_path"]),
        ({"condition": "frames"}, ["model.in_channels", "48 and 48", "with condition: frames", "97 and 48"]),
        ({"given": {"none": 1.0}}, ["given is set", "condition is none"]),
        ({"given": {"none": 0, "first": 0, "first_and_last": 0, "random": 0}}, ["given", "wanted one above 0"]),
        (
            {"condition": "frames", "model": {"in_channels": 97}, "data": {"num_frames": 2}},
            ["data.num_frames is 2", "at least 3 frames"],
        ),
        (
            {
                "condition": "frames",
                "model": {"in_channels": 97},
                "data": {"buckets": [BUCKET, BUCKET | {"num_frames": 1}]},
            },
            ["num_frames of 1x32x32 is 1", "at least 3 frames"],
        ),
        (
            {"condition": "frames", "stage": "interpolation", "model": {"in_channels": 97}},
            ["condition is frames", "stage interpolation", "set it to none"],
        ),
        ({"rescale_betas_zero_snr": True}, ["rescale_betas_zero_snr", "prediction_type", "v_prediction"]),
    ),
)
def test_a_wrong_value_is_told_with_what_was_got_and_wanted(change, words):
    assert_told(merge(BASE, change), words)


def test_the_full_size_networks_are_the_released_ones_but_for_what_the_configs_argue():
    vsr = load_config(ROOT / "configs/vsr.yaml").model
    assert vsr == STAGES["vsr"].network
    changed = {
        key
        for key, value in load_config(ROOT / "configs/interpolation.yaml").model
        if value != getattr(STAGES["interpolation"].network, key)
    }
    assert changed == {"spatial_attention", "temporal_order", "rotary_dim"}


STAGE_FAULTS = (
    ("interpolation", {"data.num_frames": 60}, r"data.num_frames is 60: .* n \* 4 \+ 1 frames"),
    ("interpolation", {"data.buckets": [BUCKET]}, r"data.buckets: num_frames of 16x32x32 is 16: .* n \* 4 \+ 1 frames"),
    ("interpolation", {"data.num_images": 2}, "data.num_images is 2: stage interpolation trains on clips alone"),
    ("interpolation", {"model.in_channels": 4}, "stage interpolation with an autoencoder of 4 channels needs 8 and 4"),
    ("interpolation", {"validation_prompts": ["x"]}, "validation_prompts are for stage base"),
    ("vsr", {"model.in_channels": 8}, "stage vsr with an autoencoder of 4 channels needs 7 and 4"),
    ("vsr", {"model.num_noise_levels": 0, "model.max_noise_level": None}, "model.num_noise_levels is 0"),
    ("vsr", {"degradation.scale": 2}, "degradation.scale is 2: .* must be the autoencoder's 4"),
    ("vsr", {"sampling.noise_level": 351}, "sampling.noise_level is 351, above model.max_noise_level 350"),
    ("vsr", {"degradation.blur": [2, 1]}, r"blur is \[2.0, 1.0\]: wanted a range"),
    ("vsr", {"data.crop": "cover"}, "moving_images is 0.2: crop cover leaves the camera no room"),
    (
        "vsr",
        {"model.block_out_channels": [256, 512, 512, 1040], "model.norm_num_groups": 16},
        "1040 is no multiple of 32, the groups of every norm in temporal_convolutions",
    ),
)


@pytest.mark.parametrize("stage, changes, message", STAGE_FAULTS)
def test_faults_of_the_later_stages_are_found_before_anything_runs(stage, changes, message):
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    with pytest.raises(ConfigError, match=message):
        load_config(ROOT / f"configs/{stage}.yaml", overrides)


def test_a_law_of_timesteps_stands_by_its_name_or_with_its_numbers():
    path = ROOT / "configs/base.yaml"
    for overrides in (
        ["timestep_sampling={law: logit_normal, std: 0.8}"],
        ["timestep_sampling.law=logit_normal", "timestep_sampling.std=0.8"],
    ):
        law = load_config(path, overrides).timestep_sampling
        assert (law.law, law.mean, law.std) == ("logit_normal", 0.0, 0.8), overrides
    assert load_config(ROOT / "configs/base.yaml").timestep_sampling.law == "uniform"
    assert_told(BASE | {"timestep_sampling": {"mean": 1.0}}, ["mean belong to law: logit_normal"])
    assert_told(BASE | {"timestep_sampling": {"law": "logit_normal", "std": 0}}, ["timestep_sampling.std", "0"])
    shares = {"law": "logit_normal", "uniform_share": [[5, 0], [6, 1.5]]}
    assert_told(BASE | {"timestep_sampling": shares}, ["timestep_sampling", "wanted shares of 0 to 1"])
    assert_told(BASE | {"timestep_sampling": "cosine"}, ["timestep_sampling", "cosine", "uniform"])


def test_numbers_that_no_run_can_have_are_refused():
    for key, value in (("seed", 10**23), ("max_train_steps", 10**20), ("output_dir", "  ")):
        assert_told(BASE | {key: value}, [key])
    assert_told(BASE | {"data": BASE["data"] | {"height": 10**8}}, ["data.height"])


@pytest.mark.parametrize(
    "key", ("output_dir", "init_weights", "pretrained_model_name_or_path", "resume_from_checkpoint", "data.cache")
)
def test_a_url_is_refused_where_a_path_is_wanted(key):
    """It would be the name of a folder here, in which a run trains and saves without a word."""
    for text, wrong in (("s3://me:secret@bucket/x", "a URL of s3"), ("gs:/x", "a URL of gs"), ("a\0b", "NUL")):
        change: dict = {key: text} if "." not in key else {"data": {key.partition(".")[2]: text}}
        told = faults(merge(BASE, change))
        assert f"{key}: " in told and wrong in told and "secret" not in told
