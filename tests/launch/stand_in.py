"""A stand-in for train.py where SLURM and the scripts of launch/ are tested: light, and slow on purpose.

It counts steps, 20 a second, keeps the count in output_dir, and stops as the trainer does. Arguments say what happens:

- `steps=STEPS`: the count at which it is done;
- `save=SECONDS`: how long a save takes;
- `at=STEPS:WHAT`: what happens so many steps after a start. `stop` asks for a stop after every start; after the first
  start alone, `wait` waits for what comes, `die` kills the second rank, and a number is the code it exits with;
- `again=CODE`: the code that the second rank exits with at once in the second start.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from lavie.training import signals, stop


def meet(folder: Path, rank: int, what: str) -> None:
    """Wait until every rank has come here: srun ends those that still run when the first one leaves."""
    name = f"{what}-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    (folder / f"{name}-{rank}").touch()
    while len(list(folder.glob(f"{name}-*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.05)


def main() -> None:
    """Be one rank: note how it was started, meet the others, and count."""
    signals.listen()
    rank = int(os.environ["RANK"])
    change = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
    folder = Path(change["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)

    # What the tests read: the arguments, the port of the meeting, and the step that a start goes on from.
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

    # A step, unless a stop was asked for; then what `at` says.
    waits = False
    delay, _, what = change.get("at", "-1:").partition(":")
    while step < int(change.get("steps", 0)):
        if signals.SIGNAL in signal.sigpending():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            meet(folder, rank, "stops")
            print("saves")
            time.sleep(float(change.get("save", 0)))
            saved.write_text(str(step))
            sys.exit(stop.STOPPED)
        time.sleep(0.05)
        reached = step == start + int(delay)
        if reached and what == "wait" and not restarted:
            if not waits:
                print("waits")
            waits = True
            continue
        step += 1
        if reached and what == "stop":
            os.kill(os.getpid(), signals.SIGNAL)
        elif reached and what != "wait" and rank == 1 and not restarted:
            os.kill(os.getpid(), signal.SIGKILL) if what == "die" else sys.exit(int(what))
    saved.write_text(str(step))


main()
