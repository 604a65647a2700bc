"""YAML files are read by the types of the keys: traps of YAML 1.1 and keys that stand twice are named."""

import pytest
import yaml

from lavie.config.load import load_config, read_yaml
from lavie.config.train import TrainConfig
from lavie.config.yaml_values import read_document
from lavie.errors import ConfigError
from tests.config.values import SMOKE

REST = "data: {train: clips, fps: 8}\nmax_train_steps: 10\npretrained_model_name_or_path: sd\n"


def refusal(tmp_path, text: str) -> str:
    """Return the message about a file with this text."""
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "run.yaml")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_keys_of_text_take_what_stands_there(tmp_path):
    text = "output_dir: 20261128\nmixed_precision: no\nvalidation_prompts: [on, 1e5, 007, 12:30, 2026-11-28, 'null']\n"
    (tmp_path / "run.yaml").write_text(text + REST)
    config = load_config(tmp_path / "run.yaml")
    assert (config.output_dir, config.mixed_precision) == ("20261128", "no")
    assert config.validation_prompts == ("on", "1e5", "007", "12:30", "2026-11-28", "null")


def test_a_key_that_stands_twice_names_both_lines(tmp_path):
    told = refusal(tmp_path, "output_dir: a\nseed: 1\nuse_ema: true\nseed: 2\n" + REST)
    assert "key seed stands on line 2 and again on line 4" in told
    told = refusal(tmp_path, "output_dir: a\nmodel:\n  rotary_dim: 8\n  rotary_dim: 16\n" + REST)
    assert "key model.rotary_dim stands on line 3 and again on line 4" in told


@pytest.mark.parametrize("value, meaning", (("010", "octal"), ("0x10", "decimal"), ("1_0", "_"), ("1:30", "base 60")))
def test_numbers_that_yaml_reads_as_others_are_refused_with_their_line(tmp_path, value, meaning):
    told = refusal(tmp_path, f"output_dir: a\nseed: {value}\n" + REST)
    assert f"line 2: seed: {value}" in told and meaning in told


def test_numbers_in_a_dataset_are_read_as_numbers(tmp_path):
    data = "{train: {path: a, weight: 0b1}, fps: 8}"
    told = refusal(tmp_path, f"output_dir: a\nmax_train_steps: 1\ndata: {data}\n")
    assert "data.train.weight: 0b1" in told


def test_aliases_and_merged_mappings_are_read(tmp_path):
    text = "output_dir: &o runs/x\ninit_weights: *o\ndata: {<<: &d {fps: 8, height: 64}, height: 32, train: a}\n"
    (tmp_path / "run.yaml").write_text(text)
    assert read_yaml(tmp_path / "run.yaml") == {
        "output_dir": "runs/x", "init_weights": "runs/x", "data": {"fps": 8, "height": 32, "train": "a"},
    }  # fmt: skip


def test_a_file_that_holds_itself_is_refused(tmp_path):
    assert "holds itself" in refusal(tmp_path, "output_dir: a\ndata: &d {train: *d}\n")


def test_aliases_of_aliases_take_no_time():
    """Each line doubles what it holds: 2^60 values, were they copied."""
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    assert len(read_document("\n".join(lines), TrainConfig)) == 60


def test_tags_beyond_yamls_own_are_refused(tmp_path):
    assert "no YAML" in refusal(tmp_path, "output_dir: !!python/object/apply:os.getcwd []\n" + REST)
    assert read_document("seed: !!str 5", None) == {"seed": "5"}


@pytest.mark.parametrize("value", (1.5, 1e-5, 1e300, -3, True, None, "1e5", "no", "010", "a: b #c", "", "null", "~"))
def test_what_yaml_writes_is_read_as_it_was(value):
    assert read_document(yaml.safe_dump({"sampling": {"negative_prompt": value}}), None)["sampling"] == {
        "negative_prompt": value if value != "1e5" else 1e5
    }
    if isinstance(value, str):
        text = yaml.safe_dump({"output_dir": value})
        assert read_document(text, TrainConfig) == {"output_dir": value}


def test_a_number_is_not_true():
    for text in ("seed=true", "seed=False", "data.num_frames=true", "learning_rate=true"):
        with pytest.raises(ConfigError, match=text.partition("=")[0]):
            load_config(SMOKE, [text])
    assert load_config(SMOKE, ["use_ema=true"]).use_ema
