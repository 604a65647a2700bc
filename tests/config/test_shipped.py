"""Shipped configs are found by name where no file of that name exists."""

import pytest

from lavie.config.load import load_config
from lavie.config.shipped import SHIPPED, find_config, shipped_names
from lavie.errors import ConfigError
from tests.config.values import ROOT


def test_every_config_of_the_checkout_is_shipped():
    files = {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert set(shipped_names()) == files


@pytest.mark.parametrize(
    "name", ("smoke/base.yaml", "configs/smoke/base.yaml", "./configs/smoke/base.yaml", "smoke/base")
)
def test_a_shipped_config_is_found_by_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == SHIPPED / "smoke/base.yaml"
    assert load_config(find_config(name)).stage == "base"


def test_the_ending_of_a_shipped_config_may_be_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("finetune") == SHIPPED / "finetune.yaml"
    assert find_config("configs/zero3", "--deepspeed") == SHIPPED / "zero3.json"


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zero3.json").write_text("{}")
    assert find_config("zero3.json").read_text() == "{}"


@pytest.mark.parametrize(
    "name, words", (("smok/base.yaml", "smoke/base.yaml?"), ("x", "lavie config list"), (".", "is a folder"))
)
def test_what_is_nowhere_is_told(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--deepspeed") as caught:
        find_config(name, "--deepspeed")
    assert words in str(caught.value)
