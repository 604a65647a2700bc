"""Runs that are stopped after every step and resumed by new processes, beside the run that was never stopped.

1. A run is trained without a stop, and saves after each step.
2. From each of its checkpoints but the last, new processes train the rest in a folder of their own.
3. Every record, the keys of all samples that each rank was given, and every value of the last checkpoint must be those
   of the run that was never stopped, to the bit.
"""

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lavie.config.train import TrainConfig
from lavie.data.prepare.synthetic import demo_set
from lavie.testing import run_distributed
from tests.training import cached
from tests.training.runs import deepspeed_json, make_config, records
from tests.training.torture.kills import STAGES, difference

STEPS, RANKS = 6, 2
COMMON = {"max_train_steps": STEPS, "checkpointing_steps": 1, "checkpoints_total_limit": None, "train_batch_size": 2}
BAD = (1, 4, 7)
"""Which clips of the damaged shard cannot be read."""


class Case(NamedTuple):
    """A kind of run."""

    name: str
    zero_stage: int
    config: TrainConfig


class Resumed(NamedTuple):
    """A run that went on from the checkpoint of a step."""

    case: str
    step: int
    differs: str
    """What is not as in the run that was never stopped; "" if nothing is."""


def cases(data: Path, folder: Path) -> Iterator[Case]:
    """Yield all kinds of runs: the stages of the cascade under all stages of ZeRO, and what moves the data.

    Args:
        data: holds the dataset train/.
        folder: a folder for the runs and for data that they need; it is made.
    """
    folder.mkdir()
    for stage, make in STAGES.items():
        for zero_stage in (0, 1, 2, 3):
            yield Case(f"stage {stage}, ZeRO-{zero_stage}", zero_stage, make(data, folder / "run", **COMMON))

    whole = STAGES["base"](data, folder / "run", **COMMON)
    yield Case("accumulation", 3, whole.model_copy(update={"gradient_accumulation_steps": 2}))

    short = folder / "short"
    demo_set(short, clips=20, images=0, size=24, frames=4)
    sizes = [{"num_frames": 3, "height": 16, "width": 16}, {"num_frames": 5, "height": 24, "width": 24}]
    buckets = {"train": [str(data / "train"), str(short / "train")], "buckets": sizes, "num_workers": 1}
    yield Case("buckets", 3, make_config(data, folder / "run", data=buckets, **COMMON))

    small = cached.make_config(data, output_dir=str(folder / "run"), **COMMON)
    yield Case("cache", 3, cached.cached(small, folder / "cache"))

    yield Case("bad samples", 3, STAGES["base"](damaged(data, folder / "damaged"), folder / "run", **COMMON))


def damaged(data: Path, copy: Path) -> Path:
    """Return a copy of a dataset of which some clips have zeros in their middle."""
    shutil.copytree(data, copy)
    [shard] = (copy / "train").glob("*.tar")
    with tarfile.open(shard) as archive:
        clips = [member for member in archive if member.name.endswith(".mp4")]
    with shard.open("r+b") as file:
        for clip in (clips[number] for number in BAD):
            file.seek(clip.offset_data + clip.size // 2)
            file.write(bytes(min(64, clip.size // 2)))
    return copy


def train_and_note(config: TrainConfig, settings: Path) -> None:
    """Train on this rank, and write down the keys of the samples of each of its batches beside the run."""
    from lavie.distributed import rank
    from lavie.training.trainer import Trainer

    def noted(batches: Any) -> Iterator[Any]:
        with _notes(config, rank()).open("w") as file:
            for batch in batches:
                file.write(json.dumps([batch["positions"].tolist(), batch["keys"]]) + "\n")
                file.flush()
                yield batch

    with Trainer(config, settings) as trainer:
        trainer.batches = noted(trainer.batches)  # type: ignore[assignment]
        trainer.fit()


def _notes(config: TrainConfig, rank: int) -> Path:
    """Return the file of a rank's notes."""
    run = Path(config.output_dir)
    return run.parent / f"{run.name}-{rank}.jsonl"


def every_step(case: Case, folder: Path) -> Iterator[Resumed]:
    """Yield what became of the runs that went on from each step of a case.

    Args:
        case: the kind of run.
        folder: an empty folder, which is empty again afterwards but for DeepSpeed's settings.
    """
    settings = deepspeed_json(folder, case.zero_stage)
    straight = case.config.model_copy(update={"output_dir": str(folder / "straight")})
    run_distributed(train_and_note, RANKS, straight, settings)
    for step in range(1, STEPS):
        begin = {"resume_from_checkpoint": f"{straight.output_dir}/checkpoint-{step}"}
        resumed = straight.model_copy(update=begin | {"output_dir": str(folder / "resumed")})
        run_distributed(train_and_note, RANKS, resumed, settings)
        yield Resumed(case.name, step, _other_samples(straight, resumed, step) or difference(straight, resumed, step))
        shutil.rmtree(resumed.output_dir)
    assert case.name != "bad samples" or any(record.get("dropped") for record in records(straight))
    shutil.rmtree(straight.output_dir)


def _other_samples(straight: TrainConfig, resumed: TrainConfig, step: int) -> str:
    """Return which rank was given other samples after a step; "" if none was."""
    first = step * straight.gradient_accumulation_steps
    for rank in range(RANKS):
        wanted = _notes(straight, rank).read_text().splitlines()
        assert len(wanted) == STEPS * straight.gradient_accumulation_steps
        if _notes(resumed, rank).read_text().splitlines() != wanted[first:]:
            return f"the samples of rank {rank}"
    return ""
