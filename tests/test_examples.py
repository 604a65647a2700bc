"""Each script of examples/ runs as it stands, in miniature: tiny networks, a few clips, one or two steps."""

import contextlib
import json
import os
import runpy
import sqlite3
import sys

import numpy as np
import pytest
from PIL import Image

from lavie.config.load import dump_yaml
from lavie.data.prepare.synthetic import render_clip, render_image
from lavie.data.shards.index import load_index
from lavie.inference.exchange.export import export_stage
from lavie.inference.video_io import write_mp4
from lavie.models.lora import read_lora
from lavie.seeds import numpy_generator
from lavie.testing import run_distributed
from tests.cascades import cascade_folder, stage_config
from tests.doc_pages import ROOT, blocks

__all__ = ["cascade_folder"]

EXAMPLES = ROOT / "examples"
CLIPS = 11
TINY = ("max_train_steps=1", "data.num_workers=0", "report_to=[]", "validate_at_start=true")


def run_example(name, *words):
    """Run an example in the repository's root with words of a command line, in this process."""
    os.chdir(ROOT)
    sys.argv = [f"examples/{name}", *map(str, words)]
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def on_rank(told, *words):
    """Run an example on a rank of `run_distributed`, and keep what it prints in a file."""
    with open(told, "w") as file, contextlib.redirect_stdout(file):
        run_example(*words)


@pytest.fixture
def run_here(monkeypatch):
    """`run_example` in this process, whose folder and words are as before afterwards."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [])
    return run_example


@pytest.fixture(scope="module")
def base(cascade_folder, tmp_path_factory):
    """An exported base network for clips of 3 frames of 16 x 24."""
    out = tmp_path_factory.mktemp("example") / "base"
    export_stage(cascade_folder / "base", out)
    return out


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of captioned clips, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        clip = render_clip("red", "circle", "moving left", rng=numpy_generator(0, "clip", number), frames=4, size=32)
        write_mp4(folder / f"{number:02d}.mp4", clip, 8)
        (folder / f"{number:02d}.txt").write_text("a red circle")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "broken.txt").write_text("nothing")
    return folder


@pytest.mark.slow
def test_finetune(clips, base, tmp_path):
    data = dict(train=[], num_frames=3, num_images=0, height=16, width=24, fps=8)
    changes = dict(init_weights=str(base), validation_prompts=["a red circle"], validation_steps=1, train_batch_size=2)
    (tmp_path / "tiny.yaml").write_text(dump_yaml(stage_config("base", data=data, trainable="temporal", **changes)))
    words = ("finetune.py", clips, tmp_path / "run", "--config", tmp_path / "tiny.yaml", *TINY)
    run_distributed(on_rank, 1, tmp_path / "told", *words)
    told = (tmp_path / "told").read_text()
    counts = {name: len(load_index([str(tmp_path / "run/data" / name)])) for name in ("train", "validation")}
    assert counts == {"train": 9, "validation": 2}
    assert "broken.mp4: " in told and "held-out loss " in told
    assert (tmp_path / "run/checkpoint-1/checkpoint.json").is_file()
    assert {path.name for path in (tmp_path / "run/samples").iterdir()} == {"step-000000", "step-000001"}


def test_own_source(clips, tmp_path, capsys, run_here):
    with sqlite3.connect(tmp_path / "clips.db") as database:
        database.execute("CREATE TABLE clips (title TEXT, caption TEXT, media BLOB)")
        rows = [(path.stem, f"clip {path.stem}", path.read_bytes()) for path in sorted(clips.glob("*.mp4"))[-3:]]
        database.executemany("INSERT INTO clips VALUES (?, ?, ?)", rows)
    run_here("own_source.py", tmp_path / "clips.db", tmp_path / "out", "--num-frames", 3, "--fps", 8)
    assert [sample.caption for sample in load_index([str(tmp_path / "out")]).videos] == ["clip 09", "clip 10"]
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"left out: {tmp_path}/clips.db, 'broken': ")
    assert told[1:] == [
        "4 frames of 128 x 128: clip 09",
        "4 frames of 128 x 128: clip 10",
        f"2 clips in {tmp_path}/out: name it in data.train of a config",
    ]


def test_own_evaluation(base, cascade_folder, tmp_path, run_here):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\na green circle\n")
    places = [str(base), str(cascade_folder / "base")]
    out = ("--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out.json", "--steps", 2)
    example = run_here("own_evaluation.py", *places, *out)
    first, same = json.loads((tmp_path / "out.json").read_text())["results"].values()
    assert first == same | {"difference": 0.0} and first["n"] == 3  # an export draws what its run draws
    assert first["interval"][0] <= first["mean"] <= first["interval"][1] and first["mean"] > 0
    grey, red = np.full((2, 4, 4, 3), 90, np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    red[..., 0] = 200
    assert example["colourfulness"](grey) == 0
    assert example["colourfulness"](red) == pytest.approx(0.3 * np.hypot(200, 100))


@pytest.mark.slow
def test_lora(base, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(8):
        pixels = render_image("orange", "circle", rng=numpy_generator(0, "image", number), size=24)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
        (tmp_path / f"images/{number}.txt").write_text("a sks circle")
    words = ("--base", base, "--out", tmp_path / "run", "--prompt", "a sks circle moving left", "lora.rank=2", *TINY)
    run_distributed(on_rank, 1, tmp_path / "told", "lora.py", tmp_path / "images", *words)
    drawn = {folder: (tmp_path / "run" / folder / "00000.mp4").read_bytes() for folder in ("strength-0", "strength-1")}
    assert all(drawn.values())
    read = read_lora(tmp_path / "run/checkpoint-1/lora/pytorch_lora_weights.safetensors")
    assert read.unet and any(bool(change.delta().any()) for change in read.unet.values())


def test_the_page_names_every_example():
    page = (EXAMPLES / "README.md").read_text()
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {name for name in scripts if f"[{name}]({name})" in page}
    for block in blocks("examples/README.md"):
        for command in block.commands:
            assert command.split()[1].removeprefix("examples/") in scripts
