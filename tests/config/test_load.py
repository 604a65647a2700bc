"""Configs: what ships loads, overrides have types, and every mistake is answered with its place and the key meant."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lavie.config.load import dump_yaml, load_config, validate
from lavie.config.overrides import merge
from lavie.config.train import TrainConfig
from lavie.errors import ConfigError
from tests.config.values import BASE, SMOKE, faults


def test_overrides_reach_the_config_with_their_types():
    config = load_config(
        SMOKE, ["learning_rate=2e-5", "data.train=[a, b]", "data.frame_stride=null", "data.fps=12", "use_ema=false"]
    )
    assert (config.learning_rate, config.data.train, config.use_ema) == (2e-5, ("a", "b"), False)
    assert (config.data.frame_stride, config.data.fps) == (None, 12.0)
    assert config.data.height == load_config(SMOKE).data.height


def test_the_last_override_counts():
    assert load_config(SMOKE, ["seed=1", "seed=2"]).seed == 2


def test_a_single_folder_stands_for_a_list_of_one():
    assert load_config(SMOKE, ["data.train=clips"]).data.train == ("clips",)


def test_a_wrong_override_is_quoted_beside_the_file():
    with pytest.raises(ConfigError, match=r"base.yaml with seed=x: seed: "):
        load_config(SMOKE, ["seed=x"])


@pytest.mark.parametrize(
    "change, meant",
    (
        ({"learning_rat": 1}, "unknown key learning_rat; did you mean learning_rate?"),
        ({"data": {"heigth": 64}}, "unknown key data.heigth; did you mean data.height?"),
        ({"height": 64}, "unknown key height; did you mean data.height?"),
        ({"model": {"rotary_dims": 32}}, "unknown key model.rotary_dims; did you mean model.rotary_dim?"),
    ),
)
def test_an_unknown_key_names_its_place_and_the_nearest_key(change, meant):
    assert faults(merge(BASE, change)) == f"run.yaml: {meant}"


def test_a_missing_key_is_named():
    assert (
        faults({k: v for k, v in BASE.items() if k != "max_train_steps"}) == "run.yaml: key max_train_steps is missing"
    )
    assert faults(BASE | {"data": {"fps": 8}}) == "run.yaml: key data.train is missing"


def test_every_fault_is_told_on_a_line_of_its_own():
    lines = faults(merge(BASE, {"seeds": 1, "train_batch_size": 0})).splitlines()
    assert len(lines) == 2 and all(line.startswith("run.yaml: ") for line in lines)


@pytest.mark.parametrize("content", (None, "{a: [", "[1, 2]", "three"))
def test_a_file_that_is_no_config_is_named(tmp_path, content):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"run.yaml"):
        load_config(path)


COUNT = st.integers(1, 10**6)

SIZE = st.integers(1, 1024).map(lambda n: 8 * n)

POSITIVE = st.floats(min_value=1e-12, max_value=1e12)

NAME = st.text(min_size=1, max_size=30)

PATH = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=30).map(
    "./{}".format  # no ~, and no word such as none
)

RATE = st.one_of(st.fixed_dictionaries({"fps": POSITIVE}), st.fixed_dictionaries({"frame_stride": COUNT}))

DATA = st.builds(
    lambda data, rate: data | rate,
    st.fixed_dictionaries(
        {
            "train": st.lists(PATH, max_size=3),
            "height": SIZE,
            "width": SIZE,
        },
        optional={
            "validation": st.lists(PATH, max_size=3),
            "num_frames": COUNT,
            "num_images": COUNT,
            "drop_short": st.booleans(),
            "buckets": st.lists(
                st.fixed_dictionaries({"num_frames": COUNT, "height": SIZE, "width": SIZE}),
                max_size=3,
                unique_by=lambda bucket: tuple(bucket.values()),
            ),
        },
    ),
    RATE,
)

CONFIGS = st.fixed_dictionaries(
    {"output_dir": PATH, "data": DATA, "max_train_steps": COUNT, "pretrained_model_name_or_path": PATH},
    optional={
        "seed": st.integers(-(2**63), 2**63 - 1),
        "model": st.fixed_dictionaries(
            {"num_attention_heads": st.sampled_from([4, [8, 8, 8, 8]]), "rotary_dim": st.just(8)}
        ),
        "autoencoder": st.fixed_dictionaries({}, optional={"scaling_factor": POSITIVE, "frames_per_call": COUNT}),
        "init_weights": st.none() | PATH,
        "learning_rate": POSITIVE,
        "adam_beta2": st.floats(0, 1, exclude_max=True),
        "snr_gamma": st.none() | POSITIVE,
        "use_ema": st.booleans(),
        "mixed_precision": st.sampled_from(["auto", "no", "bf16"]),
        "validation_prompts": st.lists(NAME, max_size=3),
    },
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(values=CONFIGS)
def test_a_dumped_config_loads_as_itself(tmp_path_factory, values):
    config = validate(TrainConfig, values, "generated")
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(path) == config


def test_a_dumped_config_names_every_key():
    assert set(yaml.safe_load(dump_yaml(load_config(SMOKE)))) == set(TrainConfig.model_fields)
