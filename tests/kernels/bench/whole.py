"""The whole of `make bench-gpu` in this process, on small shapes, with the host in the place of a GPU."""

import runpy
import sys
import time

from lavie.kernels.bench import pieces


def run(arguments: list[str], seconds: float) -> int:
    """Run a module as `python -m` would, in this process, and return its exit code."""
    print("python", *arguments, flush=True)
    began = time.process_time()
    sys.argv = arguments[1:]
    try:
        runpy.run_module(arguments[1], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    print(f"{arguments[1]}: {time.process_time() - began:.1f} s")
    return code


if __name__ == "__main__":
    pieces.spawn = run
    sys.argv = ["pieces", "--dry-run"]
    pieces.main()
