"""The scripts of launch/ as text: short, clean, and alike where they should be."""

import re
import shutil
import subprocess

import pytest

from lavie.training import stop

from .cluster import ROOT

SCRIPTS = sorted((ROOT / "launch").glob("*.s*"))
STAGES = ("base", "interpolation", "vsr")


def test_there_are_those_that_the_readme_names():
    names = {path.name for path in SCRIPTS}
    assert names == {"array.slurm", "base.slurm", "env.sh", "interpolation.slurm", "rank.sh", "vsr.slurm"}
    text = (ROOT / "launch/README.md").read_text()
    assert all(f"`{name}`" in text for name in names)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here: apt-get install shellcheck")
def test_shellcheck():
    done = subprocess.run(["shellcheck", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_batch_scripts_are_short_and_differ_by_their_stage_alone():
    texts = {stage: (ROOT / f"launch/{stage}.slurm").read_text() for stage in STAGES}
    assert all(len(text.splitlines()) <= 60 for text in texts.values())
    titles = {"base": "base", "interpolation": "interpolation", "vsr": "super-resolution"}
    alike = {text.replace(f"The {titles[stage]} stage", "STAGE").replace(stage, "S") for stage, text in texts.items()}
    assert len({re.sub(r"`[^`]*`", "", text) for text in alike}) == 1


def test_exit_codes_are_those_of_the_trainer():
    """No command is made of data, and the shell knows the trainer's exit codes."""
    text = (ROOT / "launch/env.sh").read_text()
    assert f"$1 -eq {stop.STOPPED}" in text and f"$1 -eq {stop.FAILED}" in text
    assert not [path for path in SCRIPTS if re.search(r"\beval\b|\bbash -c\b|\bsh -c\b", path.read_text())]
