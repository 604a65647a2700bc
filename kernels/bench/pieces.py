"""Run all benchmarks, and the cascade's, within a budget of minutes, at once or in pieces:

    python -m lavie.kernels.bench.pieces [--minutes 25] [--dry-run]

Each runs in a process of its own. What the same code has measured on the same GPU is not measured again (`log.py`,
beside the file of results), so that the same call goes on where the last one ended, whether its minutes were up or its
machine was taken away. All pieces together begin nothing after `TOTAL` minutes. The exit code is 0 when all is measured
and nothing failed. `--dry-run` goes through everything on small shapes in a folder that it removes again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from .harness import MORE, OF_RESULTS, results_file
from .log import Log
from .report import PLOT, README, renew

OPS = ("temporal_attention", "group_norm_silu", "pseudo3d_conv", "geglu", "layer_norm", "unet")
STAGES = {"base": 60.0, "interpolation": 90.0, "vsr": 240.0}
"""The cascade's stages, and the seconds that must be left for one to begin."""
TOTAL = 25.0
"""Minutes of all pieces together."""
OUT_OF_TIME = 124
"""What stands for the exit code of a process that was ended because time was up."""
LEAST = 3.0
"""Minutes of a piece, at least."""
REST = 30.0
"""Seconds of a piece that are kept for its report."""


class Pieces:
    """One piece of the whole."""

    def __init__(self, minutes: float, dry: bool) -> None:
        """Begin a piece.

        Args:
            minutes: how long it may take.
            dry: whether it is a dry run.
        """
        self._dry = ("--dry-run",) if dry else ()
        self.log = Log(results_file(), 0.0)
        left = min(60 * minutes, 60 * TOTAL - self.log.seconds())
        self.log.until = time.time() + left - REST
        self._spent = left < 60 * minutes

    def run(self) -> list[str]:
        """Run what is not done yet, and return what is missing or failed."""
        open_ = [op for op in OPS if not self._op(op)]
        open_ += [f"cascade, {stage}" for stage, seconds in STAGES.items() if not self._stage(stage, seconds)]
        told = [f"failed: {name}" for name in self.log.failed()]
        told += [f"cut off twice: {task}" for task in self.log.given_up()]
        if open_ and self._spent:
            told.append(f"left out, for all {TOTAL:g} minutes are used up: {', '.join(open_)}")
        elif open_:
            told.append(f"not done yet, the same call goes on there: {', '.join(open_)}")
        return told

    def _op(self, op: str) -> bool:
        """Run a benchmark until its cases are done or time is up, and return whether they are done.

        A process that dies is started again, as long as it has got to another case.
        """
        command = ["-m", f"lavie.kernels.bench.{op}", *self._dry, "--until", str(self.log.until)]
        while not self.log.is_done(op) and self.log.has_room():
            self.log.start_clock()
            before = len(self.log.lines())
            code = spawn(command, self.log.until - time.time() + REST / 2)
            if code == MORE:
                break
            if len(self.log.lines()) == before:  # it does not get as far as a case
                self.log.done(op, [f"{op}, exit code {code}"])
        return self.log.is_done(op)

    def _stage(self, stage: str, seconds: float) -> bool:
        """Run a stage of the cascade's benchmark if there is time for it, and return whether it is done."""
        task = f"cascade, {stage}"
        if self.log.wants(task) and self.log.has_room(seconds):
            self.log.start_clock()
            self.log.begin(task)
            command = ["-m", "lavie.bench.cascade", "--stage", stage, *self._dry]
            code = spawn(command, self.log.until - time.time() + REST / 2)
            if code != OUT_OF_TIME:
                self.log.done(task, [f"{task}, exit code {code}"] if code else [])
        return not self.log.wants(task)


def spawn(arguments: Sequence[str], seconds: float) -> int:
    """Run this Python with arguments, for so long at most, and return its exit code, or OUT_OF_TIME."""
    print("python", *arguments, flush=True)
    try:
        return subprocess.run([sys.executable, *arguments], timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return OUT_OF_TIME


def measure_and_report(minutes: float, readme: Path, plot: Path, dry: bool = False) -> list[str]:
    """Run a piece, renew the report, and return what is missing or failed."""
    told = Pieces(minutes, dry).run()
    if results_file().exists():
        try:
            renew(readme, results_file(), plot)
        except ImportError as error:  # what draws the picture is not among what the benchmarks need
            told.append(f"failed: the picture of the report ({error})")
    return told


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="All benchmarks, within some minutes.")
    parser.add_argument("--minutes", type=float, default=TOTAL, help="of this piece; default: %(default)g")
    parser.add_argument("--dry-run", action="store_true", help="small shapes, no times kept; works without a GPU")
    args = parser.parse_args()
    if args.minutes < LEAST:
        parser.error(f"--minutes: got {args.minutes:g}, wanted at least {LEAST:g}")
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device: give --dry-run to check the benchmarks without one")
    if args.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            os.environ[OF_RESULTS] = str(Path(folder) / "results.csv")
            told = measure_and_report(args.minutes, Path(shutil.copy(README, folder)), Path(folder) / PLOT.name, True)
    else:
        told = measure_and_report(args.minutes, README, PLOT)
    for line in told:
        print(line, file=sys.stderr)
    raise SystemExit(bool(told))


if __name__ == "__main__":
    main()
