"""The scripts of launch/ as text: short, clean, and alike where they should be."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from lavie.training import stop
from tests.launch.slurm import ROOT

SCRIPTS = sorted((ROOT / "launch").glob("*.s*"))
STAGES = ("base", "interpolation", "vsr")
CURATION = {"curate.slurm", "curate_node.sh"}
RANK = """
import signal, sys
from lavie.training import signals
signals.listen()
print("up", flush=True)
signal.sigwait({signals.SIGNAL})
sys.exit(int(sys.argv[-1]))
"""


def test_there_are_those_that_the_readme_names():
    names = {path.name for path in SCRIPTS}
    assert names == {"stages.sh", "base.slurm", "env.sh", "interpolation.slurm", "rank.sh", "vsr.slurm"} | CURATION
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


@pytest.mark.parametrize("sent, code", ((signal.SIGUSR2, stop.STOPPED), (signal.SIGUSR2, 0), (signal.SIGTERM, 143)))
def test_a_rank_gets_the_signals_that_its_shell_gets(tmp_path, sent, code):
    """Where SLURM tracks processes by their cgroup, as most clusters do, it signals only what it started itself."""
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/rank.py "$@"\n')
    (tmp_path / "python").chmod(0o755)
    variables = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "TMPDIR": str(tmp_path)}
    variables["PYTHONPATH"] = str(ROOT)
    environment = os.environ | variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", ROOT / "launch/rank.sh", str(code)]
    shell = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert shell.stdout.readline() == "up\n"
        shell.send_signal(sent)
        assert shell.wait(timeout=20) == code
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
