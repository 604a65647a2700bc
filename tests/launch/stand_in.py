"""Stands for train.py where SLURM and the scripts of launch/ are tested, not the training: light, and slow on purpose.

It counts to `steps=`, 20 a second, keeps the count in output_dir, and stops as the trainer does, where a save takes
`save=` seconds. `at=STEPS:WHAT`, so many steps after a start: stop; and only after the first start, wait for what
comes, or make the second rank die, or exit with the code that WHAT is. `again=CODE`: in the second start the
second rank exits with it at once.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from lavie.training import stop


def meet(folder: Path, rank: int, what: str) -> None:
    """Wait until every rank is here: srun ends those that still run when the first one leaves."""
    name = f"{what}-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    (folder / f"{name}-{rank}").touch()
    while len(list(folder.glob(f"{name}-*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.05)


def main() -> None:
    stop.listen()
    rank = int(os.environ["RANK"])
    change = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
    folder = Path(change["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"arguments-{os.environ['SLURM_JOB_ID']}-{rank}.json").write_text(json.dumps(sys.argv))
    (folder / f"meeting-{os.environ['SLURM_JOB_ID']}").write_text(os.environ["MASTER_PORT"])
    saved = folder / f"step-{rank}"
    step = int(saved.read_text()) if saved.exists() else 0
    print(f"from step {step}")
    meet(folder, rank, "starts")
    start, restarted = step, "SLURM_RESTART_COUNT" in os.environ
    if "again" in change and os.environ.get("SLURM_RESTART_COUNT") == "1":
        if rank == 1:
            sys.exit(int(change["again"]))
        time.sleep(60)
    waits = False
    where, _, what = change.get("at", "-1:").partition(":")
    while step < int(change.get("steps", 0)):
        if stop.SIGNAL in signal.sigpending():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            meet(folder, rank, "stops")
            print("saves")
            time.sleep(float(change.get("save", 0)))
            saved.write_text(str(step))
            sys.exit(stop.STOPPED)
        time.sleep(0.05)
        reached = step == start + int(where)
        if reached and what == "wait" and not restarted:
            if not waits:
                print("waits")
            waits = True
            continue
        step += 1
        if reached and what == "stop":
            os.kill(os.getpid(), stop.SIGNAL)
        elif reached and what != "wait" and rank == 1 and not restarted:
            os.kill(os.getpid(), signal.SIGKILL) if what == "die" else sys.exit(int(what))
    saved.write_text(str(step))


main()
