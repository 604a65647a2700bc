"""A process in a copy of the project that has imported the large libraries, and forks one run of tests for each line.

`python -m tests.mutations.server LIBRARY ...`, in the copy. A line of its input is a JSON list: the arguments of
pytest, the file for its output, and the seconds it may take. A line of its output is the exit code, or "late".
"""

import importlib
import json
import os
import sys
import time

import psutil
import pytest
import torch


def serve(arguments: list[str], output: str, limit: float) -> str:
    """Run pytest in a fork of this process."""
    child = os.fork()
    if child == 0:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        code = int(pytest.main(arguments))
        sys.stdout.flush()
        os._exit(code)

    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.1)
    process = psutil.Process(child)
    for left in [*process.children(recursive=True), process]:
        left.kill()
    os.waitpid(child, 0)
    return "late"


def main() -> None:
    """Import, then serve until the input ends."""
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # as tests/conftest.py does, before Triton is imported
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        print(serve(*json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
