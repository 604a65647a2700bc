"""The model card of an exported folder tells how the network was trained, and its usage runs as it is written."""

import os
import re
import runpy

import pytest
import yaml

from lavie.config.load import load_config
from lavie.inference.exchange.model_card import model_card
from tests.inference.exchange.exports import STAGES


def test_the_card_names_every_size_of_training():
    sizes = "[{num_frames: 16, height: 24, width: 24}, {num_frames: 4, height: 48, width: 24}]"
    config = load_config("configs/smoke/base.yaml", [f"data.buckets={sizes}"])
    about = {"step": 7, "lavie": "1", "parameters": 1, "weights": "ema", "source": "a run"}
    card = model_card(config, about)
    assert "| clips | 16 frames of 24 x 24 or 4 frames of 48 x 24, frame stride 2, joined by 1 images |" in card


@pytest.mark.parametrize("stage", STAGES)
def test_the_usage_of_the_card_runs(exported, stage, monkeypatch):
    card = (exported / stage / "README.md").read_text()
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(head)["library_name"] == "lavie"
    assert "| training steps | 3 |" in body
    assert "| weights | averaged over training" in body
    [code] = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    monkeypatch.chdir(exported / stage)
    (exported / "usage.py").write_text(code)
    done = runpy.run_path(str(exported / "usage.py"))
    if stage == "base":
        assert "00000.mp4" in os.listdir("samples")
    else:
        assert done["clip"].shape == (9, 16, 24, 3)
        assert any(name.endswith(".mp4") for name in os.listdir())
