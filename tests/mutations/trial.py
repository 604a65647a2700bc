"""One fault in a copy of the project: the tests of the touched part run there, and one of them notices it or none."""

import json
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

PASSES = (("not slow and not long", 9), ("slow and not long", 3))
"""The marks of the tests that are run one after the other, the quick ones first, and of how many files."""
LIBRARIES = (
    "torch._dynamo",
    "torch._inductor.utils",
    "diffusers.models",
    "transformers.models.clip.modeling_clip",
    "hypothesis",
)
"""Imported once for all faults: that takes longer than most tests."""
COMPILE = "from deepspeed.ops.op_builder import ShareMemCommBuilder; ShareMemCommBuilder().load()"
"""Compiles DeepSpeed's operator for ranks on a CPU. A test that were to do it could be stopped by its time limit, and
leave behind a lock that fails every test after it."""
PYTEST = "-q -rfE --tb=no -p no:cacheprovider -n0 --timeout=120"


class Copy:
    """A copy of the project in a folder of its own, and the process that runs tests in it."""

    def __init__(self, folder: Path, libraries: tuple[str, ...] = LIBRARIES):
        """Copy what git knows or would take, links as links, so that no fault is ever in the checkout."""
        self.project, self.scratch = folder / "project", folder / "tmp"
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in filter(None, subprocess.check_output(command, cwd=ROOT, text=True).split("\0")):
            if os.path.lexists(ROOT / name):  # and not deleted since
                (self.project / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.project / name, follow_symlinks=False)

        environment = os.environ | {
            "PYTHONPATH": str(self.project),
            "PYTHONDONTWRITEBYTECODE": "1",  # what was compiled with a fault must not outlive it
            "LAVIE_SHARED": str(folder / "no-reference-data"),  # nobody who clones the project has it
            **dict.fromkeys(("TMPDIR", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"), str(self.scratch)),
            "TORCH_EXTENSIONS_DIR": str(folder.parent / "extensions"),  # where COMPILE puts it, for all copies
            **{"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        }
        if libraries:
            subprocess.run([sys.executable, "-c", COMPILE], env=environment, stdout=subprocess.DEVNULL, check=True)
        memory = psutil.virtual_memory().total
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.mutations.server", *libraries],
            cwd=self.project,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: (os.nice(10), resource.setrlimit(resource.RLIMIT_AS, (memory, memory))),
        )

    def close(self) -> None:
        """End the process."""
        self.server.stdin.close()
        self.server.wait()

    def run(self, tests: list[str], marks: str | None, limit: float) -> tuple[str, list[str]]:
        """Run tests; with `marks`, up to the first failure of those.

        Returns:
            "SURVIVED", "caught", or "caught (time)" after `limit` seconds; and the names of the tests that failed.
        """
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        output = self.scratch.with_name("output")
        arguments = [*PYTEST.split(), *(["-x", "-m", marks] if marks else []), *tests]
        print(json.dumps([arguments, str(output), limit]), file=self.server.stdin, flush=True)
        code, said = self.server.stdout.readline().strip(), output.read_text(errors="replace")
        if code == "" or (code == "4" and "while loading conftest" not in said):
            raise RuntimeError(said)  # the server is dead, or what pytest was asked for is wrong
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.*?)?)(?: - .*)?$", said, re.MULTILINE)
        return {"0": "SURVIVED", "5": "SURVIVED", "late": "caught (time)"}.get(code, "caught"), failed

    def judge(self, fault: Fault, tests: list[str], limit: float) -> dict[str, Any]:
        """Put a fault in, run its tests, and take it out: the outcome, the test that noticed it, the seconds."""
        begin, target = time.monotonic(), self.project / fault.path
        original = target.read_text()
        outcome, failed = "SURVIVED", []
        target.write_text(fault.applied(original) or original)
        try:
            for marks, files in PASSES:
                if outcome == "SURVIVED":
                    outcome, failed = self.run(tests[:files], marks, limit)
        finally:
            target.write_text(original)
        return {"outcome": outcome, "by": failed[:1], "seconds": round(time.monotonic() - begin)}
