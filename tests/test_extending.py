"""docs/extending.md: its example runs as it stands, and its list of what an own stage changes is right and whole."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lavie.config.load import dump_yaml
from lavie.data.prepare.synthetic import demo_set, render_clip
from lavie.data.shards.index import load_index
from lavie.inference.video_io import write_mp4
from lavie.seeds import numpy_generator
from lavie.testing import run_distributed
from tests.cascades import stage_config
from tests.doc_pages import ROOT, blocks


def in_folder(folder: str, script: str) -> None:
    """Run a script in a folder, on a rank of `run_distributed`."""
    os.chdir(folder)
    runpy.run_path(script, run_name="__main__")


@pytest.mark.slow
def test_an_own_source_trains(tmp_path):
    [block] = [block for block in blocks("docs/extending.md") if "pack_files" in block.text]
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


def places_of_a_stage() -> dict[str, str]:
    """The name to change in each file, by the table of the page."""
    page = (ROOT / "docs/extending.md").read_text()
    return dict(re.findall(r"^\| `(lavie/[\w/]+\.py)` \| `(\w+)` \|", page.split("## An own stage")[1], re.MULTILINE))


def names_stages(path: Path) -> bool:
    """Whether a module names the later stages, as words of its code or as attributes."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    words = [node.value for node in nodes if isinstance(node, ast.Constant)]
    attributes = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
    return "vsr" in [*words, *attributes] or "interpolation" in attributes


def test_the_places_of_a_stage_are_all_that_name_stages():
    modules = [path for path in (ROOT / "lavie").rglob("*.py") if "kernels" not in path.relative_to(ROOT).parts]
    naming = {path.relative_to(ROOT).as_posix() for path in modules if names_stages(path)}
    places = places_of_a_stage()
    assert naming == set(places)
    for file, name in places.items():
        tops = ast.parse((ROOT / file).read_text()).body
        targets = [t for node in tops if isinstance(node, ast.Assign) for t in node.targets]
        targets += [node.target for node in tops if isinstance(node, ast.AnnAssign)]
        defined = {getattr(node, "name", None) for node in tops} | {t.id for t in targets if isinstance(t, ast.Name)}
        assert name in defined, file


EDITS = {
    "lavie/config/names.py": ('"vsr"]', '"vsr", "preview"]'),
    "lavie/config/model.py": (
        '    "vsr": {',
        '    "preview": {"block_out_channels": [256, 512, 512, 512]},\n    "vsr": {',
    ),
    "lavie/config/stages.py": (
        '    )\n}\n"""The stages by name',
        """        Stage(
            name="preview",
            title="small clips",
            network=UNetConfig.model_validate(PRESETS["preview"]),
            condition="none",
            autoencoder_stride=8,
            autoencoder_float32=False,
            prediction_type="epsilon",
            joins_images=False,
            released_clip=ClipShape(num_frames=4, height=64, width=64, fps=4),
        ),
    )
}
\"\"\"The stages by name""",
    ),
    "lavie/inference/settings.py": (
        "    vsr: VsrSettings =",
        "    preview: BaseSettings = BaseSettings()\n    vsr: VsrSettings =",
    ),
    "lavie/inference/load.py": ('"vsr": SuperResolver', '"vsr": SuperResolver, "preview": TextToVideo'),
}
"""The edits of the first five places for a stage without condition."""


@pytest.mark.slow
def test_five_edits_make_a_stage_that_trains_and_samples(tmp_path):
    assert list(EDITS) == list(places_of_a_stage())[:5]
    shutil.copytree(ROOT / "lavie", tmp_path / "lavie", ignore=shutil.ignore_patterns("__pycache__"))
    for file, (old, new) in EDITS.items():
        text = (tmp_path / file).read_text()
        assert text.count(old) == 1, file
        (tmp_path / file).write_text(text.replace(old, new))
    demo_set(tmp_path, clips=4, images=0, size=32, frames=8)
    data = dict(train=["train"], num_frames=2, num_images=0, height=16, width=16, fps=None, frame_stride=1)
    values = stage_config("base", data=data, max_train_steps=1)
    (tmp_path / "run.yaml").write_text(dump_yaml(values).replace("stage: base", "stage: preview"))
    sample = """
from lavie.inference.load import load_stage
sampler, config = load_stage("run")
print(config.stage, sampler(["a"], num_frames=2, height=16, width=16, num_inference_steps=2).shape)
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "DS_ACCELERATOR": "cpu"}
    overrides = ("output_dir=run", "validation_prompts=[]", "data.validation=[]", "data.num_workers=0")
    for arguments in (["-m", "lavie.train", "run.yaml", *overrides], ["-c", sample]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == "preview (1, 2, 16, 16, 3)\n"
