"""`generate` numbers its files, tells how each was made, and never writes over samples unasked."""

import json

import numpy as np
import pytest

from lavie.cli.ranks import ranks
from lavie.errors import ConfigError
from lavie.inference.generate import generate
from lavie.inference.settings import BaseSettings
from lavie.models.text_encoder import HashTextEncoder
from lavie.testing import run_distributed

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


class Cut(Exception):
    """What ends a call."""


class CutPipeline(Pipeline):
    """A pipeline that fails behind some clips."""

    def __init__(self, clips):
        super().__init__()
        self.left = clips

    def __call__(self, *given, **options):
        if not self.left:
            raise Cut
        self.left -= 1
        return super().__call__(*given, **options)


def files(folder):
    """Return the bytes of all files, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("frames", (1, 3))
@pytest.mark.parametrize("columns", (1, 2))
def test_a_call_that_was_cut_short_goes_on(tmp_path, frames, columns):
    settings = SETTINGS.model_copy(update={"num_frames": frames})
    prompts, options = ["red", "blue", "green"], {"weights": "w", "num_per_prompt": 2, "columns": columns}
    generate(Pipeline(), prompts, tmp_path / "whole", settings, **options)
    out = tmp_path / "cut"
    with pytest.raises(Cut):
        generate(CutPipeline(3), prompts, out, settings, **options)
    drawn = files(out)
    assert {name.partition(".")[0] for name in drawn} == {"00000", "00001", "00002"}
    # A clip whose last file is missing is drawn again.
    last = "00002.png" if frames == 1 else "00002.sheet.png"
    (out / last).unlink()
    pipeline, seen = Pipeline(), []
    generate(pipeline, prompts, out, settings, **options, progress=lambda *at: seen.append(at))
    assert [indices for _, indices, _ in pipeline.calls] == [[2], [3], [4], [5]]
    assert seen[-1] == (16, 16)
    assert files(out).keys() == files(tmp_path / "whole").keys()
    # Grey survives the videos, of which the sheet's rows of kept clips are.
    assert files(out) == files(tmp_path / "whole")


def test_other_samples_are_not_taken_for_those_of_a_call_that_was_cut(tmp_path):
    with pytest.raises(Cut):
        generate(CutPipeline(1), ["red", "blue"], tmp_path, SETTINGS, weights="w")
    before = files(tmp_path)
    for prompts, settings, weights, told in (
        (["blue", "red"], SETTINGS, "w", "another prompt, as 00000"),
        (["red", "blue"], SETTINGS.model_copy(update={"overlap": 2}), "w", "another overlap, as"),
        (["red", "blue"], SETTINGS, "v", "another weights, as"),
        (["red", "blue"], SETTINGS, "", "holds samples already"),
    ):
        with pytest.raises(ConfigError, match=told):
            generate(Pipeline(), prompts, tmp_path, settings, weights=weights)
    (tmp_path / "00001.png").write_bytes(b"of somebody else")
    with pytest.raises(ConfigError, match=r"no 00001.json says what it was made of"):
        generate(Pipeline(), ["red", "blue"], tmp_path, SETTINGS, weights="w")
    (tmp_path / "00001.png").unlink()
    assert files(tmp_path) == before


def test_what_is_replaced_goes_first(tmp_path):
    generate(Pipeline(), ["red", "blue"], tmp_path, SETTINGS, weights="w")
    with pytest.raises(Cut):
        generate(CutPipeline(1), ["green", "blue"], tmp_path, SETTINGS, weights="w", overwrite=True)
    assert {name.partition(".")[0] for name in files(tmp_path)} == {"00000"}
    pipeline = Pipeline()
    generate(pipeline, ["green", "blue"], tmp_path, SETTINGS, weights="w")
    assert [prompts for prompts, _, _ in pipeline.calls] == [["blue"]]


def test_fewer_clips_leave_none_of_an_earlier_call(tmp_path, caplog):
    generate(Pipeline(), ["red", "blue", "green"], tmp_path, SETTINGS, weights="w")
    (tmp_path / "00007.json").write_text('{"mine": 1}')
    (tmp_path / "00002.txt").write_text("mine")
    generate(Pipeline(), ["red"], tmp_path, SETTINGS, weights="w", overwrite=True)
    assert "2 clips of an earlier call, from 00001 on, are deleted" in caplog.text
    drawn = {"00000.gif", "00000.json", "00000.mp4", "00000.sheet.png", "prompts.jsonl", "sheet.png"}
    assert files(tmp_path).keys() == drawn | {"00007.json", "00002.txt"}


def test_fewer_clips_do_not_go_on_with_a_call_that_was_cut(tmp_path):
    with pytest.raises(Cut):
        generate(CutPipeline(2), ["red", "blue", "green"], tmp_path, SETTINGS, weights="w")
    with pytest.raises(ConfigError, match="holds 00001 of an earlier call, which this one does not draw"):
        generate(Pipeline(), ["red"], tmp_path, SETTINGS, weights="w")


@pytest.mark.parametrize("file", ("00000.mp4", "00000.gif", "00000.sheet.png"))
def test_a_damaged_clip_is_named_and_drawn_again(tmp_path, caplog, file):
    generate(Pipeline(), ["red", "blue"], tmp_path, SETTINGS, weights="w")
    whole = files(tmp_path)
    (tmp_path / "prompts.jsonl").unlink()
    (tmp_path / file).write_bytes(b"x")
    pipeline = Pipeline()
    generate(pipeline, ["red", "blue"], tmp_path, SETTINGS, weights="w")
    assert [prompts for prompts, _, _ in pipeline.calls] == [["red"]]
    assert f"{file} is damaged" in caplog.text
    assert files(tmp_path) == whole


def drawn_by_this_rank(out):
    """Draw on, and return which clips this rank drew and how many files it was told of."""
    pipeline = Pipeline()
    with ranks():
        paths = generate(pipeline, ["red", "blue", "green"], out, SETTINGS, weights="w", num_per_prompt=2)
    return [indices[0] for _, indices, _ in pipeline.calls], len(paths)


@pytest.mark.slow
def test_ranks_share_what_is_left_and_write_it_themselves(tmp_path):
    options = {"weights": "w", "num_per_prompt": 2}
    generate(Pipeline(), ["red", "blue", "green"], tmp_path / "whole", SETTINGS, **options)
    with pytest.raises(Cut):
        generate(CutPipeline(1), ["red", "blue", "green"], tmp_path / "cut", SETTINGS, **options)
    told = run_distributed(drawn_by_this_rank, 2, tmp_path / "cut")
    assert told == [([1, 3, 5], 7), ([2, 4], 0)]
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
