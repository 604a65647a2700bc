"""Checkpoints of every number of ranks under every ZeRO stage, loaded by every other.

1. A run of one rank under stage 0 is trained for two steps: its state is the one that all others must have.
2. Each number of ranks under each stage loads that checkpoint and saves it again.
3. Each loads what each of the others saved, into an engine that was filled with NaN before, and saves it again: every
   value of the new checkpoint must be the first one's to the bit.
4. Each then trains the next step, whose loss must be the uninterrupted run's within 1e-6.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from lavie.config.train import TrainConfig
from lavie.testing import run_distributed
from tests.training.checkpoint.states import state_of
from tests.training.runs import deepspeed_json, losses, make_config, train

RANKS, STAGES = (1, 2, 3, 4), (0, 1, 2, 3)
SMALL = {
    "max_train_steps": 3,
    "checkpointing_steps": 2,
    "train_batch_size": 12,
    "data": {"num_frames": 2, "num_images": 1, "height": 16, "width": 16},
}
LOSS = 1e-6
"""How far the loss of the next step may be off: sums go in another order."""


class Pair(NamedTuple):
    """A checkpoint that one engine saved and another loaded."""

    saved: str
    loaded: str
    differs: str
    """The first value that is not as in the first run; "" if all are."""


class Next(NamedTuple):
    """The next step of a resumed run."""

    loaded: str
    off: float
    """How far its loss is from that of the uninterrupted run."""


def name_of(ranks: int, stage: int) -> str:
    """Return the name of an engine, as in "2 ranks, ZeRO-3"."""
    return f"{ranks} rank{'s' * (ranks > 1)}, ZeRO-{stage}"


def every_pair(data: Path, folder: Path, ranks: tuple[int, ...] = RANKS) -> tuple[list[Pair], list[Next]]:
    """Return what became of all pairs of these numbers of ranks under all stages, and of the next steps."""
    first = make_config(data, folder / "first", **SMALL)
    for stage in STAGES:
        deepspeed_json(folder, stage)
    run_distributed(train, 1, first, folder / "zero0.json")
    origin = f"{first.output_dir}/checkpoint-2"
    wanted, [*_, loss] = state_of(origin), losses(first)

    # What each engine saves, of the first run's state.
    saved = {(count, stage): folder / f"saved-{count}-{stage}" for count in ranks for stage in STAGES}
    for count in ranks:
        again = {stage: {origin: str(saved[count, stage])} for stage in STAGES}
        run_distributed(save_again, count, first, folder, again, False)

    # What each makes of what the others saved.
    pairs, following = [], []
    for count in ranks:
        made = {key: folder / f"by-{count}-of-{key[0]}-{key[1]}" for key in saved}
        sources = {stage: {f"{saved[key]}/checkpoint-2": f"{made[key]}-{stage}" for key in saved} for stage in STAGES}
        after = run_distributed(save_again, count, first, folder, sources, True)[0]
        following += [Next(name_of(count, stage), abs(after[stage] - loss)) for stage in STAGES]
        for stage in STAGES:
            for key in saved:
                got = state_of(f"{made[key]}-{stage}/checkpoint-2")
                pairs.append(Pair(name_of(*key), name_of(count, stage), _difference(got, wanted)))
    return pairs, following


def _difference(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> str:
    """Return the first value in which two states differ; "" if there is none."""
    names = sorted(got.keys() | wanted.keys())
    return next((n for n in names if n not in got or n not in wanted or not torch.equal(got[n], wanted[n])), "")


def save_again(
    config: TrainConfig, folder: Path, sources: dict[int, dict[str, str]], follow: bool
) -> dict[int, float | None]:
    """Under each stage, load each source and save it again; return the loss of the next step from the last one.

    Args:
        config: the first run.
        folder: holds the settings of the stages.
        sources: by stage, a folder to save to by the checkpoint that is loaded.
        follow: whether the next step is trained.
    """
    from lavie.distributed import barrier
    from lavie.training.checkpoint.find import find
    from lavie.training.checkpoint.load import load
    from lavie.training.checkpoint.saver import Saver
    from lavie.training.trainer import Trainer

    after: dict[int, float | None] = {}
    for stage, folders in sources.items():
        begin = {"output_dir": f"{list(folders.values())[-1]}-next", "resume_from_checkpoint": list(folders)[-1]}
        with Trainer(config.model_copy(update=begin), folder / f"zero{stage}.json") as trainer:
            for source, target in folders.items():
                asked = config.model_copy(update={"output_dir": target, "resume_from_checkpoint": source})
                resume = find(asked, stage)
                assert resume is not None
                Path(target).mkdir(exist_ok=True)
                barrier()
                _spoil(trainer)
                load(trainer.engine, trainer.ema, resume)
                saver = Saver(trainer.engine, trainer.ema, asked, asked)
                saver.save(resume.step)
                saver.finish()
            if follow:
                trainer.fit()
        after[stage] = losses(trainer.config)[-1] if follow else None
    return after


def _spoil(trainer: Any) -> None:
    """Fill what a checkpoint restores with NaN, as far as this rank holds it."""
    from lavie.training.checkpoint.state import flats, torch_optimizer

    with torch.no_grad():
        for flat in flats(trainer.engine):
            flat.fill_(torch.nan)
        torch_optimizer(trainer.engine).state.clear()
        for shadow in trainer.ema.shadow.values():
            shadow.fill_(torch.nan)
