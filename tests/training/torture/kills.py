"""Training runs whose ranks are killed at random moments, again and again, and that must end as if nothing had been.

1. A run is trained undisturbed.
2. The same run is started with resume_from_checkpoint=auto, and one rank or all are killed at a random moment after
   their start, until it has been killed so many times. Then it is let go on to its end.
3. Its records, and all values of its last checkpoint, must equal those of the undisturbed run to the bit.
"""

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lavie.config.train import TrainConfig
from lavie.testing import run_distributed
from tests.training.checkpoint.states import state_of
from tests.training.runs import MODEL, deepspeed_json, make_config, make_vsr_config, records, train

STEPS = 12
COMPUTED = ("step", "loss", "loss_video", "loss_image", "grad_norm", "lr", "dropped", "skipped", "spikes", "epoch")
"""What a record holds that is computed; the rest are measures of time and memory."""


SMALL = {
    "max_train_steps": STEPS,
    "checkpointing_steps": 2,
    "train_batch_size": 1,
    "checkpoints_total_limit": 2,
}


class Calm(NamedTuple):
    """A run that nobody kills."""

    stage: str
    ranks: int
    config: TrainConfig
    span: float
    """Seconds that it took from the start of its ranks on."""


class Sequence(NamedTuple):
    """A run that was killed, and what it ended as."""

    stage: str
    ranks: int
    moments: tuple[str, ...]
    """What each kill met."""
    differs: str
    """What is not as in the undisturbed run; "" if nothing is."""


def interpolation(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return a small run of stage interpolation."""
    model = MODEL | {"in_channels": 6, "relative_bias": False}
    shape = {"num_frames": 5, "num_images": 0, "height": 16, "width": 16}
    return make_config(data, output, stage="interpolation", model=model, data=shape, **changes)


def base(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return a small run of stage base."""
    shape = {"num_frames": 2, "num_images": 1, "height": 16, "width": 16}
    return make_config(data, output, data=shape, **changes)


STAGES: dict[str, Callable[..., TrainConfig]] = {"base": base, "interpolation": interpolation, "vsr": make_vsr_config}
"""The stages of the cascade, in miniature."""


def train_and_tell(config: TrainConfig, settings: Path, pids: Path) -> None:
    """Train on this rank, which first writes down its process."""
    (pids / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    train(config, settings)


def killed(config: TrainConfig, settings: Path, ranks: int, folder: Path, rng: random.Random, span: float) -> str:
    """Start a run, kill one rank or all at a random moment, and return what they were doing.

    Args:
        config: the run.
        settings: the file of DeepSpeed's settings.
        ranks: how many there are.
        folder: an empty one, for notes.
        rng: decides when, and whom.
        span: seconds within which the moment lies, from when the ranks have started.
    """
    met: list[str] = []
    run = Path(config.output_dir)

    def kill() -> None:
        while len(found := list(folder.glob("*.pid"))) < ranks or not all(path.stat().st_size for path in found):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, span))
        pids = [int(path.read_text()) for path in found]
        hidden = [path.name for path in run.glob(".checkpoint-*")] if run.is_dir() else []
        for pid in pids if rng.random() < 0.5 else [rng.choice(pids)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                met.append("too late")
                return
        met.append("in a save" if hidden else "at the start" if _steps(config) == before else "in a step")

    before = _steps(config)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_distributed(train_and_tell, ranks, config, settings, folder)
    except AssertionError as error:
        if "died without a word" not in str(error):
            raise
    killer.join()
    return met[0]


def _steps(config: TrainConfig) -> int:
    """Return how many lines a run has recorded."""
    path = Path(config.output_dir) / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def undisturbed(data: Path, folder: Path, stage: str, ranks: int) -> Calm:
    """Train a run that nobody kills."""
    (folder / "calm-pids").mkdir(parents=True)
    config = STAGES[stage](data, folder / "calm", **SMALL)
    run_distributed(train_and_tell, ranks, config, deepspeed_json(folder, 3), folder / "calm-pids")
    return Calm(stage, ranks, config, time.time() - (folder / "calm-pids" / "0.pid").stat().st_mtime)


def sequence(calm: Calm, folder: Path, kills: int, seed: int) -> Sequence:
    """Train the run of `calm` anew, kill it so many times, and compare the two.

    Args:
        calm: the run that nobody kills.
        folder: a folder for the other one; it is made.
        kills: how many; fewer if it comes to its end before.
        seed: of when, and of whom.
    """
    folder.mkdir()
    rng, settings = random.Random(seed), deepspeed_json(folder, 3)
    own = {"output_dir": str(folder / "disturbed"), "resume_from_checkpoint": "auto"}
    disturbed = calm.config.model_copy(update=own)
    moments = []
    while sum(moment != "too late" for moment in moments) < kills:
        notes = folder / f"pids-{len(moments)}"
        notes.mkdir()
        moments.append(killed(disturbed, settings, calm.ranks, notes, rng, calm.span))
        if moments[-1] == "too late" or _steps(disturbed) == STEPS:
            break
    run_distributed(train, calm.ranks, disturbed, settings)
    return Sequence(calm.stage, calm.ranks, tuple(moments), difference(calm.config, disturbed))


def difference(calm: TrainConfig, disturbed: TrainConfig, after: int = 0) -> str:
    """Return the first thing in which two runs differ that should be alike; "" if there is none.

    Args:
        calm: the undisturbed run.
        disturbed: the other one.
        after: the step from which on the other one has records.
    """
    wanted, got = [record for record in _computed(calm) if record["step"] > after], _computed(disturbed)
    if [record["step"] for record in got] != [record["step"] for record in wanted]:
        return f"steps {[record['step'] for record in got]}"
    for one, other in zip(wanted, got, strict=True):
        if one != other:
            return f"record {other}, wanted {one}"
    before, after = _hashes(calm), _hashes(disturbed)
    different = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return f"{len(different)} values, as {different[0]}" if different else ""


def _computed(config: TrainConfig) -> list[dict[str, Any]]:
    """Return what is computed of a run's records."""
    return [{name: record.get(name) for name in COMPUTED} for record in records(config)]


def _hashes(config: TrainConfig) -> dict[str, str]:
    """Return the hash of each value of a run's last checkpoint."""
    state = state_of(Path(config.output_dir) / f"checkpoint-{config.max_train_steps}")
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}
