"""One fault in a copy of the project: the tests of the touched part run there, and one of them notices it or none."""

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tests.mutations.choice import ROOT
from tests.mutations.faults import Fault

PASSES = ("not slow and not long", "slow and not long")
"""The marks of the tests that are run one after the other, the quick ones first."""
PYTEST = "pytest -q -rfE --tb=no -p no:cacheprovider -n0 --timeout=120"


def copy_project(to: Path) -> Path:
    """Copy what git knows or would take, links as links, so that no fault is ever in the checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.check_output(command, cwd=ROOT, text=True).split("\0")):
        if os.path.lexists(ROOT / name):  # and not deleted since
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    return to


def run_tests(copy: Path, tests: list[str], marks: str | None, limit: float) -> tuple[str, list[str]]:
    """Run tests in a copy of the project; with `marks`, up to the first failure of those.

    Returns:
        "SURVIVED", "caught", or "caught (time)" after `limit` seconds; and the names of the tests that failed.
    """
    scratch = copy.with_name(f"{copy.name}-tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",  # what was compiled with a fault must not outlive it
        "LAVIE_SHARED": str(copy / "no-reference-data"),  # nobody who clones the project has it
        **dict.fromkeys(("TMPDIR", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"), str(scratch)),
        **{"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    }
    command = [sys.executable, "-m", *PYTEST.split(), *(["-x", "-m", marks] if marks else []), *tests]
    memory = psutil.virtual_memory().total
    process = subprocess.Popen(
        command,
        **{"cwd": copy, "env": environment, "text": True, "errors": "replace"},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
        preexec_fn=lambda: (os.nice(10), resource.setrlimit(resource.RLIMIT_AS, (memory, memory))),
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return "caught (time)", []
    finally:
        if process.poll() is None:
            for left in [*psutil.Process(process.pid).children(recursive=True), process]:
                left.kill()
        shutil.rmtree(scratch, ignore_errors=True)
    if process.returncode == 4:  # what pytest itself was asked for is wrong
        raise RuntimeError(output)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.*?)?)(?: - .*)?$", output, re.MULTILINE)
    return ("SURVIVED" if process.returncode in (0, 5) else "caught"), failed


def judge(fault: Fault, tests: list[str], copy: Path, limit: float) -> dict[str, Any]:
    """Put one fault into a copy, run its tests, and take it out: the outcome, the test that noticed it, the seconds."""
    begin, target = time.monotonic(), copy / fault.path
    original = target.read_text()
    outcome, failed = "SURVIVED", []
    target.write_text(fault.applied(original) or original)
    try:
        for marks in PASSES:
            if outcome == "SURVIVED":
                outcome, failed = run_tests(copy, tests, marks, limit)
    finally:
        target.write_text(original)
    return {"outcome": outcome, "by": failed[:1], "seconds": round(time.monotonic() - begin)}
