"""The two ways of saving that are tried, on a state of some thousand numbers: ours, and DeepSpeed's own.

A save has a version, a number from which all of its values are drawn. So whatever is loaded afterwards can be told: it
is the state of one save to the bit, or of none.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lavie.errors import LavieError
from tests.training.runs import deepspeed_json, make_config

VERSIONS = range(1, 10)
"""The versions that a trial may save."""


class Found(NamedTuple):
    """What a start with resume_from_checkpoint=auto, or DeepSpeed's load_checkpoint, finds in a run's folder."""

    version: int | None
    """The version whose state was loaded; None if nothing was, or what belongs to no save."""
    loaded: bool
    problem: str
    """The error that the start ends with; "" without one. Neither loaded nor an error: it starts at step 0."""


class Engine:
    """What a Saver asks of DeepSpeed's engine, as it is under stage 0 on one rank."""

    skipped_steps = 0

    def __init__(self) -> None:
        self.module = tiny_network()
        self.optimizer = torch.optim.AdamW(self.module.parameters())

    def zero_optimization_stage(self) -> int:
        return 0

    def fp16_enabled(self) -> bool:
        return False

    def train_batch_size(self) -> int:
        return 1

    def gradient_accumulation_steps(self) -> int:
        return 1


def tiny_network() -> nn.Module:
    """Return a network of 4,424 numbers."""
    return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 4, bias=False), nn.LayerNorm(4))


def values_of(engine: Any) -> Iterator[torch.Tensor]:
    """Yield views of all float32 weights and moments of an engine, in a fixed order."""
    from lavie.training.checkpoint.state import held_by, moments_of

    for held in held_by(engine):
        yield held.of(held.flat.detach())
        yield from moments_of(engine, held).values()


def draw(engine: Any, version: int) -> None:
    """Give an engine the state of a version; version 0 is a state that no save has."""
    from lavie.training.checkpoint.state import begin_moments, spread_weights

    generator = torch.Generator().manual_seed(version)
    begin_moments(engine, version)
    for values in values_of(engine):
        values.copy_(torch.rand(values.shape, generator=generator))
    spread_weights(engine)


def version_of(engine: Any) -> int | None:
    """Return the version whose state an engine has to the bit; None for none."""
    state = [values.clone() for values in values_of(engine)]
    for version in VERSIONS:
        generator = torch.Generator().manual_seed(version)
        if all(torch.equal(values, torch.rand(values.shape, generator=generator)) for values in state):
            return version
    return None


class Ours:
    """lavie.training.checkpoint, with a stand-in for the engine: no DeepSpeed is started."""

    def __init__(self, run: Path) -> None:
        from lavie.training.checkpoint.saver import Saver

        run.mkdir(exist_ok=True)
        changes = {"checkpoints_total_limit": 1, "max_failed_saves": 10**6, "use_ema": False, "train_batch_size": 1}
        self.config = make_config(run.parent, run, **changes)
        self.engine = Engine()
        self.saver = Saver(self.engine, None, self.config, self.config)

    def save(self, step: int, version: int) -> str | None:
        """Save a version as a step, and return why it was dropped."""
        draw(self.engine, version)
        before = self.saver.failures
        self.saver.save(step)
        self.saver.wait()
        return "dropped" if self.saver.failures > before else None

    def look(self, run: Path) -> Found:
        """Return what a start finds in a run's folder. Like a start, it gives hidden folders their names back."""
        from lavie.training.checkpoint.find import find
        from lavie.training.checkpoint.load import load

        asked = self.config.model_copy(update={"output_dir": str(run), "resume_from_checkpoint": "auto"})
        draw(self.engine, 0)
        try:
            resume = find(asked, 0)
            if resume is None:
                return Found(None, False, "")
            load(self.engine, None, resume)
        except (LavieError, OSError, RuntimeError) as error:
            return Found(None, False, f"{type(error).__name__}: {error}")
        return Found(version_of(self.engine), True, "")

    def look_after_sweep(self, run: Path) -> Found:
        """Return what a start finds if the next save has begun, and was killed when it had swept the folder."""
        from lavie.manifest import fault_of
        from lavie.training.checkpoint.retention import sweep

        copy = run.with_name("swept")
        shutil.copytree(run, copy)
        sweep(copy, fault_of)
        found = self.look(copy)
        shutil.rmtree(copy)
        return found


class Stock:
    """DeepSpeed's own save_checkpoint and load_checkpoint, ZeRO stage 1 on one rank."""

    def __init__(self, run: Path) -> None:
        from lavie.training.deepspeed import build_engine, init_distributed, resolve_json

        run.mkdir(exist_ok=True)
        init_distributed()
        config = make_config(run.parent, run)
        self.run = run
        self.engine = build_engine(tiny_network(), config, resolve_json(deepspeed_json(run.parent, 1), config, 1))

    def save(self, step: int, version: int) -> str | None:
        """Save a version as a step, and return why that failed."""
        draw(self.engine, version)
        self.engine.global_steps = step
        try:
            self.engine.save_checkpoint(str(self.run), tag=f"global_step{step}")
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def look(self, run: Path) -> Found:
        """Return what DeepSpeed loads from a run's folder."""
        draw(self.engine, 0)
        try:
            path, _ = self.engine.load_checkpoint(str(run))
        except Exception as error:
            return Found(None, False, f"{type(error).__name__}: {error}")
        return Found(version_of(self.engine) if path else None, path is not None, "")

    def look_after_sweep(self, run: Path) -> Found:
        """Return what `look` does: DeepSpeed sweeps nothing."""
        return self.look(run)


SUBJECTS = {"ours": Ours, "stock": Stock}
