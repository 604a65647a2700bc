"""What --lora asks for, and how it is applied to a stage."""

from pathlib import Path

import pytest

from lavie.errors import ConfigError
from lavie.models.lora.choice import LoraChoice, apply_choices, read_choices
from lavie.models.text_encoder import HashTextEncoder
from tests.models.lora.files import made, made_text, save_kohya


@pytest.mark.parametrize(
    "text, text_scale, wanted",
    (
        ("a.safetensors", None, ("a.safetensors", 1.0, 1.0)),
        ("a.safetensors:0.5", None, ("a.safetensors", 0.5, 0.5)),
        ("a.safetensors:0.5", 0.2, ("a.safetensors", 0.5, 0.2)),
        ("a.safetensors:-1:0", 0.2, ("a.safetensors", -1.0, 0.0)),
        ("C:/loras/a:2", None, ("C:/loras/a", 2.0, 2.0)),
        ("C:/a.safetensors", None, ("C:/a.safetensors", 1.0, 1.0)),
    ),
)
def test_files_with_scales(text, text_scale, wanted):
    assert LoraChoice.parse(text, text_scale) == LoraChoice(Path(wanted[0]), *wanted[1:])


def test_a_path_that_is_there_keeps_its_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a:2").touch()
    assert LoraChoice.parse("a:2").path == Path("a:2")
    assert LoraChoice.parse("a:2:0.5") == LoraChoice(Path("a:2"), 0.5, 0.5)


@pytest.mark.parametrize(
    "text, told",
    (
        ("a.safetensors:nan", "a scale is nan: wanted a number of -100 .. 100"),
        ("a.safetensors:1:inf", "a scale is inf: wanted a number"),
        ("a.safetensors:1e30", "wanted a number of -100 .. 100"),
        (":0.5", "wanted FILE, FILE:SCALE or FILE:SCALE:TEXT_SCALE"),
    ),
)
def test_scales_are_in_their_range_and_there_is_a_file(text, told):
    with pytest.raises(ConfigError, match=told):
        LoraChoice.parse(text)


def test_text_scales_are_in_their_range():
    with pytest.raises(ConfigError, match="--lora-text-scale is nan: wanted a number"):
        LoraChoice.parse("a.safetensors", float("nan"))


@pytest.mark.parametrize("end, message", (("abc", "'abc' is no number"), ("1,5", "'1,5' is"), ("", "'' is no number")))
def test_what_follows_a_file_that_is_there_is_a_number(tmp_path, end, message):
    (tmp_path / "a").touch()
    for text in (f"{tmp_path}/a:{end}", f"{tmp_path}/a:{end}:2"):
        with pytest.raises(ConfigError, match=message):
            LoraChoice.parse(text)
    with pytest.raises(ConfigError, match="three numbers"):
        LoraChoice.parse(f"{tmp_path}/a:1:2:3")


def test_a_text_part_without_a_text_encoder_is_told(network, tmp_path, caplog):
    path = save_kohya(tmp_path / "a.safetensors", made(network, "attention"), made_text())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    files = read_choices([LoraChoice(path)], network.config)
    with caplog.at_level("WARNING", "lavie"):
        [report] = apply_choices(files, network, HashTextEncoder(24, 6))
    assert "12 weights of its text part are left out" in caplog.text
    changed = {name for name, value in network.state_dict().items() if not value.equal(before[name])}
    assert changed == set(report.applied)


def test_a_choice_is_known_by_its_content_and_scales(tmp_path, network):
    path = save_kohya(tmp_path / "a.safetensors", made(network, "attention"))
    record = LoraChoice(path, 0.5).record()
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    (copied / "a.safetensors").write_bytes(path.read_bytes())
    assert LoraChoice(copied / "a.safetensors", 0.5).record() == record
    assert LoraChoice(path, 0.6).record() != record
    save_kohya(path, made(network, "attention", seed=1))
    assert LoraChoice(path, 0.5).record() != record
