"""A step reads the device once, moves nothing to it in a way that waits, and gives batches in their order ahead."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lavie.config.train import TrainConfig
from lavie.testing import run_distributed
from lavie.training import ahead
from lavie.training.ahead import Ahead
from tests.training.runs import deepspeed_json, make_config

READS = {Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.cpu, Tensor.numpy}
"""What makes the host wait for a tensor that is on a GPU."""
OF_THE_HOST = {
    # The positions of a batch, which a loader gives on the host.
    ("trainer.py", "_step"),
    ("objective.py", "training_inputs"),
    ("objective.py", "_inputs"),
    ("objective.py", "_condition"),
    # The count of steps of AdamW, which is on a GPU for its fused form alone, and is not read there.
    ("optimizer.py", "_get_value"),
    # The norm that `given_norms` hands over, read from a step's one tensor before.
    ("utils.py", "is_invalid_grad_norm"),
}
"""Where what is read never is on a GPU: file and function."""


class Waits(TorchFunctionMode):
    """Counts where the host reads tensors, and where our own code moves them by other means than `carry`."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[tuple[str, str]] = Counter()
        self.moves: Counter[tuple[str, str]] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in READS or function is Tensor.to:
            frame = sys._getframe(1)
            place = Path(frame.f_code.co_filename).name, frame.f_code.co_name
            if function in READS and place not in OF_THE_HOST:
                self.reads[place] += 1
            moved = any(isinstance(value, (str, torch.device)) for value in (*args[1:], *kwargs.values()))
            moved = moved and not kwargs.get("non_blocking")
            if function is Tensor.to and moved and "/lavie/" in frame.f_code.co_filename and place[0] != "carry.py":
                self.moves[place] += 1
        return function(*args, **kwargs)


def waits(config: TrainConfig, settings: Path) -> tuple[Counter, Counter, bool]:
    """Train, and return the reads and moves of all steps but the first, and whether DeepSpeed's timer runs.

    In the first step, ZeRO 3 notes the order of the modules, and the ranks compare their notes.
    """
    from lavie.training import trainer

    run, counter = trainer.Trainer(config, settings), Waits()
    step_of_run = run._step

    def step(number: int) -> Any:
        with counter if number > 1 else nullcontext():
            return step_of_run(number)

    run._step = step  # type: ignore[method-assign]
    run.fit()
    return counter.reads, counter.moves, run.engine.tput_timer.config.enabled


@pytest.mark.slow
@pytest.mark.parametrize("stage", (0, 2, 3))
def test_a_step_reads_the_device_once(rendered, tmp_path, stage):
    config = make_config(rendered, tmp_path / "run", max_train_steps=3, gradient_accumulation_steps=2)
    [(reads, moves, timed)] = run_distributed(waits, 1, config, deepspeed_json(tmp_path, stage))
    assert reads == {("update.py", "measure_step"): 2}
    assert not moves and not timed


class Stream:
    """Stands for a CUDA stream: notes what is asked of it."""

    def __init__(self, *_: object) -> None:
        self.waited: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.waited.append(other)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def numbered() -> Iterator[dict[str, Any]]:
    """Yield batches without end, whose tensors hold their number."""
    number = 0
    while True:
        yield {"pixels": torch.full((2,), number), "positions": torch.tensor([number]), "keys": [[str(number)]]}
        number += 1


def test_batches_are_begun_ahead_and_come_in_their_order(monkeypatch):
    present, taken, recorded = Stream(), [], []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: present)
    monkeypatch.setattr(ahead, "carry", lambda tensor, device: taken.append(int(tensor[0])) or tensor + 100)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: recorded.append(int(tensor[0])))
    batches = Ahead(numbered(), torch.device("cuda"))
    got = []
    for _ in range(3):
        batch = next(batches)
        got.append((int(batch["pixels"][0]), int(batch["positions"][0])))
        batches.begin()
        batches.begin()  # one ahead, never two
        assert taken == list(range(len(got) + 1))
    assert got == [(100, 0), (101, 1), (102, 2)]
    assert recorded == [100, 101, 102] and len(present.waited) == 3


def test_on_a_cpu_nothing_is_taken_ahead():
    source = numbered()
    batches = Ahead(source, torch.device("cpu"))
    assert next(batches)["keys"] == [["0"]]
    batches.begin()
    assert next(source)["keys"] == [["1"]]
