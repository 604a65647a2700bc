"""The whole of `make bench-gpu` in this process, on small shapes: the host is the GPU, and plain PyTorch the kernels.

All else is the target's own code. Without plain PyTorch each pass would take seconds in Triton's interpreter, where
`make bench` checks the kernels.
"""

import importlib
import runpy
import sys
import time

from lavie.kernels.bench import harness, pieces


def run(arguments: list[str], seconds: float) -> int:
    """Run a module as `python -m` would, in this process, and return its exit code."""
    name, sys.argv = arguments[1], arguments[1:]
    print("python", *arguments, flush=True)
    began = time.process_time()
    try:
        if name.startswith("lavie.kernels."):  # torch.compile looks for a function's module by its name
            module = importlib.import_module(name)
            harness.main(name.rpartition(".")[2], module.cases)
        else:
            runpy.run_module(name, run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        print(f"{name}: {time.process_time() - began:.1f} s")
    return 0


if __name__ == "__main__":
    for op in ("geglu", "group_norm_silu", "layer_norm", "pseudo3d_conv", "temporal_attention"):
        module = importlib.import_module(f"lavie.ops.{op}")
        assert module.kernels_for
        module.kernels_for = lambda *_: None
    pieces.spawn = run
    read = pieces.renew

    def renew(readme, results, plot):
        """Renew the report, and show it: its folder is removed."""
        read(readme, results, plot)
        print(readme.read_text(encoding="utf-8"))

    pieces.renew = renew
    sys.argv = ["pieces", "--dry-run"]
    pieces.main()
