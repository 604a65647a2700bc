"""Overrides: a value arrives as it was typed or is refused, and every way to write one gives the same."""

from pathlib import Path

import pytest

from lavie.config.load import load_config
from lavie.config.overrides import merge, parse_overrides, split_command_line
from lavie.config.train import TrainConfig
from lavie.errors import ConfigError
from tests.config.values import SMOKE


@pytest.mark.parametrize(
    "text, tree",
    (
        ("seed=3", {"seed": 3}),
        ("use_ema=false", {"use_ema": False}),
        ("init_weights=null", {"init_weights": None}),
        ("data.train=[a, b]", {"data": {"train": ["a", "b"]}}),
        ("data.height=64", {"data": {"height": 64}}),
        ("output_dir=a=b", {"output_dir": "a=b"}),
        ("data={height: 64, train: 20}", {"data": {"height": 64, "train": "20"}}),
    ),
)
def test_overrides_are_yaml_of_the_keys_types(text, tree):
    assert parse_overrides([text], TrainConfig) == tree


@pytest.mark.parametrize(
    "text, value",
    (
        ("sampling.negative_prompt=text #logo, watermark", "text #logo, watermark"),
        ("sampling.negative_prompt=worst quality: bad", "worst quality: bad"),
        ("sampling.negative_prompt=no", "no"),
        ("sampling.negative_prompt=", ""),
        ("sampling.negative_prompt='null'", "null"),
        ("sampling.negative_prompt='tis #1", "'tis #1"),
        ("sampling.negative_prompt='a' and 'b'", "'a' and 'b'"),
        ("sampling.negative_prompt={a} | b", "{a} | b"),
        ('sampling.negative_prompt="a\\tb"', "a\tb"),
        ("output_dir=runs/exp #3", "runs/exp #3"),
        ("output_dir=20261128", "20261128"),
        ("output_dir=1e5", "1e5"),
        ("output_dir=runs/lr=1e-4,b=2", "runs/lr=1e-4,b=2"),
        ("output_dir=~/runs/x", str(Path.home() / "runs/x")),
        ("data.validation=~/x", (str(Path.home() / "x"),)),
        ("validation_prompts=[no, 5, '#6']", ("no", "5", "#6")),
        ("mixed_precision=no", "no"),
        ("max_train_steps=1e3", 1000),
        ("learning_rate=1e-5", 1e-5),
        ("learning_rate=.5", 0.5),
        ("use_ema=off", False),
        ("data.validation=null", ()),
    ),
)
def test_a_value_arrives_as_it_was_typed(text, value):
    found = load_config(SMOKE, [text])
    for part in text.partition("=")[0].split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, words",
    (
        ("seed=010", ["seed: 010", "octal"]),
        ("seed=0x1F", ["0x1F", "not decimal"]),
        ("seed=1_000", ["1_000"]),
        ("max_train_steps=1:30", ["1:30", "base 60"]),
        ("seed=2026-11-28", ["a date"]),
        ("max_train_steps=1.5", ["max_train_steps: wanted a whole number (got 1.5)"]),
        ("seed=1 # first", ["'# first' would be cut off"]),
        ("data.train=[a, b] # both", ["'# both' would be cut off"]),
        ("data.train=[a #b, c]", ["no YAML", "quotes"]),
        ("data={height: 8, height: 9}", ["key data.height stands twice"]),
        ("output_dir=", ["output_dir: wanted a path"]),
        ("output_dir=~", ["output_dir: wanted text (got null)"]),
        ("output_dir=~nobody-of-that-name/x", ["no user ~nobody-of-that-name"]),
        ("sampling.negative_prompt=[a, b]", ['sampling.negative_prompt: wanted text (got ["a", "b"])']),
        ("sampling.negative_prompt=null", ["wanted text (got null)", "quotes"]),
        ("data.train=a,b", ["one path with a comma", "[a, b]", "['a,b']"]),
        ("init_weights=none", ["init_weights: none", "null"]),
        ("data.validation=none", ["[]"]),
        ("validation_steps=0", ["(got 0)", "data.validation=[]", "validation_prompts=[]"]),
        ("checkpoints_total_limit=0", ["(got 0)", "null switches it off"]),
        ("data.fps=off", ['(got "off")', "null switches it off"]),
    ),
)
def test_what_would_mean_something_else_is_refused(text, words):
    with pytest.raises(ConfigError) as caught:
        load_config(SMOKE, [text])
    assert len(str(caught.value).splitlines()) == 1
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ("seed", "=3", "data.train=["))
def test_malformed_overrides_are_quoted(text):
    with pytest.raises(ConfigError, match="override") as caught:
        parse_overrides([text], TrainConfig)
    assert repr(text) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_value_and_a_part_of_it_do_not_go_together():
    with pytest.raises(ConfigError, match=r"override 'seed.x=2': seed was given the value 1"):
        parse_overrides(["seed=1", "seed.x=2"], TrainConfig)
    with pytest.raises(ConfigError, match=r"override 'data=x': data.fps was given before"):
        parse_overrides(["data.fps=1", "data=x"], TrainConfig)


def test_a_section_and_a_part_of_it_go_together():
    assert parse_overrides(["data.fps=1", "data={height: 8}"], TrainConfig) == {"data": {"fps": 1, "height": 8}}


def test_merge_lays_leaves_over_and_changes_neither():
    base, change = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}
    assert merge(base, change) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]} and change == {"a": {"b": 3}, "d": [2]}


@pytest.mark.parametrize(
    "line",
    (
        ["a.yaml", "learning_rate=1e-5", "data.height=8", "seed=-1"],
        ["--learning_rate", "1e-5", "--data.height=8", "--seed", "-1", "a.yaml"],
        ["--learning-rate=1e-5", "a.yaml", "data.height=8", "--seed=-1"],
    ),
)
def test_every_way_to_write_a_change_is_the_same(line):
    found = split_command_line(line, TrainConfig)
    assert (found.plain, found.overrides) == (["a.yaml"], ["learning_rate=1e-5", "data.height=8", "seed=-1"])


def test_a_path_with_an_equals_sign_is_a_path():
    found = split_command_line(["runs/lr=1/config.yaml"], TrainConfig)
    assert (found.plain, found.overrides) == (["runs/lr=1/config.yaml"], [])


def test_own_options_keep_their_values():
    words = ["--deepspeed", "z.json", "--dry-run", "a.yaml", "--deepspeed=y.json", "--seed", "1"]
    found = split_command_line(words, TrainConfig, {"--deepspeed": True, "--dry-run": False})
    assert found.own == ["--deepspeed=z.json", "--dry-run", "--deepspeed=y.json"]
    assert (found.plain, found.overrides) == (["a.yaml"], ["seed=1"])


@pytest.mark.parametrize(
    "line, words",
    (
        (["--learning_rat", "1"], ["--learning_rat", "--learning_rate?"]),
        (["--height", "8"], ["--height", "--data.height?"]),
        (["--dry"], ["--dry-run?"]),
        (["--nothing-like-it"], ["--nothing-like-it", "--help"]),
        (["--seed"], ["--seed has no value", "seed=VALUE"]),
        (["--seed", "--dry-run"], ["--seed has no value"]),
    ),
)
def test_an_unknown_option_names_the_nearest(line, words):
    with pytest.raises(ConfigError) as caught:
        split_command_line(line, TrainConfig, {"--dry-run": False})
    for word in words:
        assert word in str(caught.value)
