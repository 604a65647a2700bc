"""The example of docs/extending.md runs as it stands: an own source becomes shards, and a run learns from them."""

import json
import os
import runpy

import pytest

from lavie.config.load import dump_yaml
from lavie.data.prepare.synthetic import render_clip
from lavie.data.shards.index import load_index
from lavie.inference.video_io import write_mp4
from lavie.seeds import numpy_generator
from lavie.testing import run_distributed
from tests.cascades import stage_config
from tests.pages import ROOT, blocks


def in_folder(folder: str, script: str) -> None:
    """Run a script in a folder, on a rank of `run_distributed`."""
    os.chdir(folder)
    runpy.run_path(script, run_name="__main__")


@pytest.mark.slow
def test_an_own_source_trains(tmp_path):
    [block] = [block for block in blocks("docs/extending.md") if block.language == "python"]
    (tmp_path / "script.py").write_text(block.text)
    (tmp_path / "my_source").mkdir()
    for name in ("a_red_circle", "a_blue_square"):
        clip = render_clip("red", "circle", "moving left", rng=numpy_generator(0, name, 0), frames=8, size=64)
        write_mp4(tmp_path / "my_source" / f"{name}.mp4", clip, 8)
    (tmp_path / "my_source/broken.mp4").write_bytes(b"no video")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/zero3.json").write_text((ROOT / "configs/zero3.json").read_text())
    data = dict(train=[], num_frames=3, num_images=0, height=16, width=24, fps=8, num_workers=0)
    (tmp_path / "configs/base.yaml").write_text(dump_yaml(stage_config("base", data=data, max_train_steps=2)))

    run_distributed(in_folder, 1, str(tmp_path), str(tmp_path / "script.py"))

    assert {sample.caption for sample in load_index((str(tmp_path / "data/own"),))} == {"a red circle", "a blue square"}
    [rejected] = (tmp_path / "data/own/rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["name"].endswith("broken.mp4")
    records = [json.loads(line) for line in (tmp_path / "runs/own/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [1, 2]
