"""The values of a small run, and its faults, which the tests of the configuration share."""

import json
from pathlib import Path

import pytest

from lavie.config.load import validate
from lavie.config.train import TrainConfig
from lavie.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "configs/smoke/base.yaml"

BUCKET = {"num_frames": 16, "height": 32, "width": 32}
BASE = {
    "output_dir": "run",
    "model": {"in_channels": 48, "out_channels": 48},
    "autoencoder": {"type": "patch"},
    "text_encoder": {"type": "hash"},
    "data": {"train": "clips", "height": 32, "width": 32, "fps": 8},
    "max_train_steps": 10,
    "mixed_precision": "no",
}


def faults(values: dict) -> str:
    """Return the message of the ConfigError that these values of a run raise."""
    with pytest.raises(ConfigError) as caught:
        validate(TrainConfig, values, "run.yaml")
    return str(caught.value)


def assert_told(values: dict, words: list[str]) -> None:
    """Assert that these values of a run raise a ConfigError of one line that holds every one of `words`."""
    message = faults(values)
    assert message.startswith("run.yaml: ") and len(message.splitlines()) == 1
    for word in words:
        assert word in message


def write(path: Path, content: object) -> Path:
    """Write `content` as JSON, which is YAML too, and return `path`."""
    path.write_text(json.dumps(content))
    return path
