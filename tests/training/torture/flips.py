"""One flipped bit in a file of the newest checkpoint: it must be refused by name, and the older one taken."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lavie.config.train import TrainConfig
from lavie.errors import CheckpointError
from lavie.manifest import read_manifest, require_whole_network
from lavie.testing import run_distributed
from lavie.training.checkpoint.find import find
from tests.training.runs import deepspeed_json, make_config, train
from tests.training.torture.worker import Worker

SMALL = {
    "max_train_steps": 2,
    "checkpointing_steps": 1,
    "train_batch_size": 1,
    "data": {"num_frames": 2, "num_images": 1, "height": 16, "width": 16},
}
FOR_SAMPLING = ("unet/", "config.yaml", "checkpoint.json")
"""What sampling reads of a checkpoint, which it verifies by itself."""


class Flip(NamedTuple):
    """What became of a flipped bit."""

    file: str
    bit: int
    result: str
    good: bool


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """Flip one bit of a file for the while."""
    place = bit // 8
    with path.open("r+b") as file:
        file.seek(place)
        was = file.read(1)
        file.seek(place)
        file.write(bytes([was[0] ^ 1 << bit % 8]))
    try:
        yield
    finally:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(was)


def places(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, int]]:
    """Yield `count` random bits of the files of a folder, of each file in turn."""
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for number in range(count):
        path = files[number % len(files)]
        yield path, rng.randrange(path.stat().st_size * 8)


def checkpoints_of_a_run(data: Path, folder: Path) -> TrainConfig:
    """Train two steps on two ranks under ZeRO-3, and return the config that resumes from its two checkpoints."""
    config = make_config(data, folder / "run", **SMALL)
    run_distributed(train, 2, config, deepspeed_json(folder, 3))
    return config.model_copy(update={"resume_from_checkpoint": "auto"})


def ours(config: TrainConfig, count: int, seed: int) -> Iterator[Flip]:
    """Yield what becomes of flipped bits in the newest checkpoint of a run that has two."""
    newest = Path(config.output_dir) / "checkpoint-2"
    whole = read_manifest(newest)
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("lavie").addHandler(handler)
    try:
        for path, bit in places(newest, count, seed):
            name = path.relative_to(newest).as_posix()
            told.clear()
            with flipped(path, bit):
                yield Flip(name, bit, *_outcome(config, newest, name, whole, told))
    finally:
        logging.getLogger("lavie").removeHandler(handler)


def _outcome(config: TrainConfig, newest: Path, name: str, whole: dict, told: list[str]) -> tuple[str, bool]:
    """Return what a start makes of a damaged file, and whether that is right."""
    try:
        resume = find(config, 3)
    except CheckpointError as error:
        return f"the run stops: {error}", False
    if resume.step == 2:
        # A manifest that says the same in other characters.
        same = name == "checkpoint.json" and resume.manifest == whole
        return ("without meaning", True) if same else ("not noticed", False)
    if not any(str(newest / name) in line for line in told):
        return "older one taken, the file not named", False
    if name.startswith(FOR_SAMPLING):
        try:
            require_whole_network(newest)
        except CheckpointError:
            pass
        else:
            return "sampled from", False
    return "named, older one taken", True


def stock(folder: Path, count: int, seed: int) -> Iterator[Flip]:
    """Yield what becomes of flipped bits in the newest of two checkpoints that DeepSpeed has saved."""
    run = folder / "run"
    folder.mkdir()
    with Worker("stock", run) as worker:
        for step in (1, 2):
            assert worker.ask("save", step, step) is None
        newest = run / "global_step2"
        for path, bit in places(newest, count, seed):
            name = path.relative_to(newest).as_posix()
            with flipped(path, bit):
                found = worker.ask("look", run)
            if found.problem:
                yield Flip(name, bit, "the run stops with an error", False)
            elif found.version == 2:
                yield Flip(name, bit, "in bytes that nobody reads", True)
            else:
                yield Flip(name, bit, "other values loaded without a word", False)
