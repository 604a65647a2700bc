"""README and docs: every command that they show is run on tiny data, every link leads somewhere, every name exists."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml
from typer.testing import CliRunner

from lavie.cli.main import app
from lavie.config.load import dump_yaml
from lavie.data.prepare.synthetic import render_clip
from lavie.inference.video_io import write_mp4
from lavie.seeds import numpy_generator
from lavie.testing import run_distributed
from lavie.training import stop
from tests.cascades import cascade_folder, stage_config
from tests.curation.cut.films import film, shots
from tests.doc_pages import PAGES, ROOT, Block, blocks, excused
from tests.training.fixtures import pretrained

SHOWN = [block for page in PAGES for block in blocks(page)]
__all__ = ["cascade_folder", "pretrained"]

TO_RUN = (
    "README.md",
    "docs/finetune.md",
    "docs/data.md",
    "docs/curation.md",
    "docs/training.md",
    "docs/planning.md",
    "docs/cascade.md",
    "docs/applications.md",
    "docs/evaluation.md",
    "docs/pages.md",
)
"""Pages whose commands run in one sandbox, in this order: later pages use what earlier ones have made."""
WRITTEN = ("kernels/bench/results.csv",)
"""Files that a command writes into the checkout."""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, cascade_folder, pretrained) -> Path:
    """A folder in which the commands of the pages run as they stand: the files that they name are there, but tiny."""
    folder = tmp_path_factory.mktemp("sandbox")
    for name in ("train.py", "Makefile", "setup.py", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    clips = {"my_clips": 3, "my_validation_clips": 1}
    for number, (name, count) in enumerate(clips.items()):
        (folder / name).mkdir()
        for clip in range(count):
            pixels = render_clip(
                "red", "circle", "moving left", rng=numpy_generator(number, "clip", clip), frames=20, size=32
            )
            write_mp4(folder / name / f"{clip}.mp4", pixels, 8)
            (folder / name / f"{clip}.txt").write_text("a red circle moving left")
    for number, category in enumerate(("cats", "dogs")):
        (folder / "my_films" / category).mkdir(parents=True)
        frames = shots((20, 20), height=720, width=1280, seed=number)
        (folder / f"my_films/{category}/a.mp4").write_bytes(film(frames, g="20", preset="ultrafast"))
        (folder / f"my_films/{category}/a.txt").write_text(f"one of the {category} runs")
    for block in blocks("docs/curation.md"):  # files that the page shows, each with its name in the first line
        if name := re.match(r"# (\w+\.yaml)\n", block.text):
            (folder / name[1]).write_text(block.text)
    (folder / "prompts.txt").write_text("a fox in the snow\na red circle\n")
    shutil.copytree(cascade_folder, folder / "runs/mine")
    shutil.copytree(pretrained, folder / "weights/stable-diffusion-v1-4")
    (folder / "configs").mkdir()
    for name in ("zero2.json", "zero3.json"):
        shutil.copy(ROOT / "configs" / name, folder / "configs")
    data = dict(train="data/train", validation="data/validation", num_frames=3, num_images=0, height=16, width=24)
    changes = dict(
        output_dir="runs/base",
        data=data | dict(fps=8, num_workers=0),
        max_train_steps=2,
        validation_batches=1,
        checkpointing_steps=1,
    )
    (folder / "configs/base.yaml").write_text(dump_yaml(stage_config("base", **changes)))
    changes |= dict(output_dir="runs/finetune", init_weights="runs/mine/base", trainable="temporal")
    (folder / "configs/finetune.yaml").write_text(dump_yaml(stage_config("base", **changes)))
    return folder


def in_sandbox(folder: Path, argv: list[str]) -> str:
    """Run train.py with `argv` in the sandbox, in this process, a rank of `run_distributed`; return "" or its code."""
    os.chdir(folder)
    sys.argv = ["train.py", *argv]
    # A run ends its process at once, in which the test has still to be told how it went.
    with mock.patch.object(stop, "leave", side_effect=sys.exit), pytest.raises(SystemExit) as end:
        runpy.run_path(str(folder / "train.py"), run_name="__main__")
    return "" if end.value.code == 0 else f"exit code {end.value.code}"


def run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command of a page in the sandbox; AssertionError, with what it printed, if it fails.

    1. `lavie ...` runs in this process.
    2. `... train.py ...` runs as one rank, whatever launcher and number of ranks the command names;
       tests/test_launchers.py compares the launchers.
    3. `make TARGET` is expanded by make, not run.
    """
    words = shlex.split(command, comments=True)
    monkeypatch.chdir(folder)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    if words[0] == "lavie":
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"
    elif "train.py" in words:
        argv = words[words.index("train.py") + 1 :]
        if "--dry-run" in argv:
            done = subprocess.run([sys.executable, "train.py", *argv], capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
        else:
            assert run_distributed(in_sandbox, 1, folder, argv) == [""], command
    elif words[0] == "make":
        done = subprocess.run(["make", "-n", "-C", str(ROOT), *words[1:]], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    else:
        assert words == ["source", ".venv/bin/activate"], f"no way to run {command!r}: mark its block"


@pytest.mark.long
def test_commands_run_as_shown(sandbox, monkeypatch):
    run_before = set()
    for page in TO_RUN:
        for block in blocks(page):
            if block.language != "bash" or excused(block):
                continue
            for command in block.commands:
                if command not in run_before:
                    with monkeypatch.context() as patch:
                        run(command, sandbox, patch)
                run_before.add(command)


@pytest.mark.long
def test_python_runs_as_shown(sandbox, monkeypatch, tmp_path):
    monkeypatch.chdir(sandbox)
    for block in SHOWN:
        if block.language == "python" and not excused(block):
            script = tmp_path / "block.py"
            script.write_text(block.text)
            runpy.run_path(str(script))


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: f"{block.page}:{block.line}")
def test_every_block_is_run_or_says_why_not(block: Block):
    assert block.language in ("bash", "yaml", "python", "text"), "say what language the block is of"
    if block.language == "bash" and block.page not in TO_RUN:
        for command in block.commands:
            assert excused(block) or command.startswith("make "), f"{command}: mark the block, or move it to {TO_RUN}"
    if block.language == "yaml":
        assert isinstance(yaml.safe_load(block.text), dict)


def test_commands_stand_in_fenced_blocks():
    """A command that is only indented would be neither run nor marked."""
    for page in PAGES:
        for line in (ROOT / page).read_text().splitlines():
            assert not re.match(r" {4}(\$ |lavie |make |python |deepspeed |torchrun |mpirun |sbatch |bash )", line), (
                page
            )


def test_targets_of_make_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for page in PAGES:
        for target in re.findall(r"`make ([\w-]+)`", (ROOT / page).read_text()):
            assert target in targets, f"{page}: make {target}"


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            if "://" not in link:
                assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


def test_paths_and_modules_exist():
    """Files of the repository and modules that the pages name in backticks."""
    for page in PAGES:
        for name in re.findall(r"`((?:lavie|kernels|tests|configs|launch|docs)/[\w/.-]+)`", (ROOT / page).read_text()):
            assert (ROOT / name).exists() or name in WRITTEN or "X" in name, f"{page}: {name}"  # X: a placeholder
        for module in re.findall(r"python -m (lavie[\w.]+)", (ROOT / page).read_text()):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), f"{page}: {module}"


def test_every_variable_of_ours_is_documented():
    page = (ROOT / "docs/environment.md").read_text()
    for path in [*ROOT.glob("lavie/**/*.py"), *ROOT.glob("kernels/**/*.py"), *ROOT.glob("launch/*"), ROOT / "Makefile"]:
        for name in re.findall(r"LAVIE_[A-Z_]+", path.read_text()):
            assert f"`{name}`" in page, f"{path.relative_to(ROOT)} reads {name}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160
