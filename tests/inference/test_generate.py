"""`generate` numbers its files, tells how each was made, and never writes over samples unasked."""

import json

import numpy as np
import pytest

from lavie.errors import ConfigError
from lavie.inference.generate import generate
from lavie.inference.settings import BaseSettings
from lavie.models.text_encoder import HashTextEncoder

pytestmark = pytest.mark.usefixtures("reversed_folders")

SETTINGS = BaseSettings(num_frames=3, height=16, width=24, num_inference_steps=4)


class Pipeline:
    """Clips whose grey level is the index of the sample."""

    def __init__(self):
        self.calls = []

    def __call__(self, prompts, *, indices, num_frames, height, width, num_inference_steps, progress, **rest):
        self.calls.append((prompts, indices, rest))
        for step in range(num_inference_steps):
            progress(step + 1, num_inference_steps)
        return np.full((1, num_frames, height, width, 3), indices[0], np.uint8)


def test_writes_numbered_samples_and_a_sheet(tmp_path):
    pipeline, seen = Pipeline(), []
    paths = generate(
        pipeline, ["red", "blue"], tmp_path, SETTINGS, num_per_prompt=2, progress=lambda *at: seen.append(at)
    )
    assert [p.name for p in paths] == ["00000.mp4", "00001.mp4", "00002.mp4", "00003.mp4", "sheet.png"]
    assert all(p.is_file() for p in paths)
    assert [(p, i) for p, i, _ in pipeline.calls] == [(["red"], [0]), (["red"], [1]), (["blue"], [2]), (["blue"], [3])]
    assert seen == [(step, 16) for step in range(1, 17)]
    sidecar = json.loads((tmp_path / "00002.json").read_text())
    assert sidecar["prompt"] == "blue"
    assert sidecar["index"] == 2
    assert sidecar["seed"] == 0
    assert sidecar["height"] == 16
    assert sidecar["num_per_prompt"] == 2
    assert "prompt_suffix" not in sidecar
    lines = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [(line["name"], line["prompt"]) for line in lines] == [
        ("00000", "red"),
        ("00001", "red"),
        ("00002", "blue"),
        ("00003", "blue"),
    ]
    assert {name: value for name, value in lines[2].items() if name != "name"} == sidecar


def test_images(tmp_path):
    paths = generate(Pipeline(), ["red"], tmp_path, SETTINGS.model_copy(update={"num_frames": 1}), num_per_prompt=2)
    assert [p.name for p in paths] == ["00000.png", "00001.png", "sheet.png"]


def test_does_not_write_over_samples_unasked(tmp_path):
    generate(Pipeline(), ["red"], tmp_path, SETTINGS, num_per_prompt=2)
    with pytest.raises(ConfigError, match="give another --out folder"):
        generate(Pipeline(), ["red"], tmp_path, SETTINGS, num_per_prompt=2)
    generate(Pipeline(), ["red"], tmp_path, SETTINGS, num_per_prompt=2, overwrite=True)


def test_refuses_no_prompts(tmp_path):
    with pytest.raises(ConfigError, match="got 0 prompts"):
        generate(Pipeline(), [], tmp_path, SETTINGS, num_per_prompt=2)


class Reads(Pipeline):
    """Clips of a network that reads two words of a prompt."""

    text_encoder = HashTextEncoder(8, 3)


@pytest.mark.parametrize("tell_cut", (True, False))
def test_words_that_are_cut_are_told_unless_they_were(tmp_path, caplog, tell_cut):
    settings = SETTINGS.model_copy(update={"negative_prompt": "blur, worst quality"})
    with caplog.at_level("WARNING", "lavie"):
        generate(Reads(), ["a red", "a red fox"], tmp_path, settings, num_per_prompt=2, tell_cut=tell_cut)
    assert [record.getMessage().split(", ")[-1] for record in caplog.records] == ["'fox'", "'quality'"] * tell_cut
