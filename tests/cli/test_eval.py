import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lavie.data.media.encode import encode_mp4
from lavie.errors import ConfigError, DataError
from tests.cli.commands import run_lavie


class Levels(torch.nn.Module):
    """Two numbers of a clip."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean(dim=[1, 2, 3, 4]), x.flatten(1).std(dim=1)], dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    torch.jit.save(torch.jit.script(Levels()), folder / "own.pt")
    for side, level in (("real", 90), ("fake", 120), ("better", 92)):
        (folder / side).mkdir()
        for n in range(8):
            frames = np.random.default_rng(n).integers(0, 60 + 4 * n, (9, 16, 16, 3)) + level
            (folder / side / f"{n}.mp4").write_bytes(encode_mp4(frames.clip(0, 255).astype(np.uint8), 8, lossless=True))
    return folder


def run(*words):
    return run_lavie("eval", *words)


def measure(folder, fake, out, *more):
    own = ("--extractor", folder / "own.pt", "--preset", "tats", "--frames", 9)
    return run("fvd", "--real", folder / "real", "--fake", folder / fake, *own, "--out", out, *more)


def test_two_folders_are_measured_kept_and_compared(folder, tmp_path):
    printed = measure(folder, "fake", tmp_path / "a.json", "--features", tmp_path / "f.safetensors", "--shuffled")
    result = json.loads((tmp_path / "a.json").read_text())
    assert f"FVD {result['fvd']:.2f} (95 %" in printed and "8 real and 8 fake clips, preset tats" in printed
    assert "FVD with the fakes' frames shuffled" in printed and result["protocol_hash"] in printed
    assert "note: with fewer than 256 clips most of the number is bias" in printed
    assert [path.name for path in tmp_path.glob("*.part")] == []
    measure(folder, "better", tmp_path / "b.json")
    assert "b is lower" in run("compare", tmp_path / "a.json", tmp_path / "b.json", "--out", tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text())["interval"][1] < 0
    with pytest.raises(ConfigError, match=r"b\.json exists"):
        measure(folder, "better", tmp_path / "b.json")


@pytest.mark.parametrize(
    "words, error, match",
    (
        (("--out", "x.json"), ConfigError, "--weights FILE .* or --extractor FILE"),
        (("--out", "x.json", "--extractor", "own.pt", "--weights", "own.pt"), ConfigError, "give one of them"),
        (("--out", "x.txt", "--extractor", "own.pt"), ConfigError, "wanted a .json"),
        (("--out", "x.json", "--extractor", "own.pt", "--features", "x"), ConfigError, "wanted a .safetensors"),
        (
            ("--out", "x.json", "--extractor", "own.pt", "--preset", "tats"),
            DataError,
            "9 frames: 16 at stride 1 span 16",
        ),
        (("--out", "x.json", "--extractor", "own.pt", "--preset", "tat"), ConfigError, "--preset tat: wanted one of"),
    ),
)
def test_what_cannot_be_measured_is_said_before_anything_is_written(folder, monkeypatch, words, error, match):
    monkeypatch.chdir(folder)
    before = sorted(Path().iterdir())
    with pytest.raises(error, match=match):
        run("fvd", "--real", "real", "--fake", "fake", *words)
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    "words, match",
    (
        (("--out", "own.pt/a.json"), r"own\.pt is no folder"),
        (("--out", "/proc/a.json"), "/proc/a.json cannot be written"),
        (("--out", "empty.json"), "empty.json is a folder"),
        (("--out", "a.json", "--features", "own.pt/f.safetensors"), r"own\.pt is no folder"),
        (("--out", "a.json", "--features", "/proc/deep/f.safetensors"), "cannot be written"),
        (("--out", "a.json", "--features", "empty.safetensors"), "empty.safetensors is a folder"),
    ),
)
def test_a_place_that_cannot_be_written_is_said_before_any_work(folder, monkeypatch, tmp_path, words, match):
    """Neither the clips nor the weights are looked at, which are not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.pt").touch()
    (tmp_path / "empty.json").mkdir()
    (tmp_path / "empty.safetensors").mkdir()
    for own in (("fvd", "--real", "a", "--fake", "b"), ("aesthetic", "--clips", "a", "--head", "h.pth")):
        with pytest.raises(ConfigError, match=match):
            run(*own, "--weights", "w", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.json", "empty.safetensors", "own.pt"]


def test_places_are_made(folder, tmp_path):
    measure(folder, "fake", tmp_path / "x/a.json", "--features", tmp_path / "y/z/f.safetensors")
    assert (tmp_path / "x/a.json").is_file() and (tmp_path / "y/z/f.safetensors").is_file()


def test_the_jobs_of_ucf101(tmp_path):
    assert "10100 jobs" in run("ucf101", "prompts", "--out", tmp_path / "jobs.jsonl")
    lines = (tmp_path / "jobs.jsonl").read_text().splitlines()
    assert len(lines) == 10100
    assert json.loads(lines[-1]) == {"prompt": "Yo Yo", "name": "YoYo/099.mp4", "index": 10099}
    assert "202 jobs" in run("ucf101", "prompts", "--samples", 2, "--out", tmp_path / "few.jsonl")
