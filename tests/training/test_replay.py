"""A step computed again, sample by sample: it finds the one that spoilt it, and changes nothing of the run."""

import shlex
from pathlib import Path

import pytest

from lavie.config.train import TrainConfig
from lavie.errors import ConfigError
from lavie.testing import run_distributed
from lavie.training.blame import excluding
from tests.training.injected import SMALL
from tests.training.runs import deepspeed_json, make_config, records

BAD = 13
"""A position of step 4, where a step has 4 rows."""


def spoilt_at(position: int, image: int | None) -> None:
    """Let the latents of one frame at a position be NaN from here on: of the clip, or of an image."""
    from lavie.training.objective import Objective

    training_inputs = Objective.training_inputs

    def spoilt(self, batch):
        inputs = training_inputs(self, batch)
        positions = batch["positions"].tolist()
        if position in positions:
            frames = inputs.sample.shape[2]
            inputs.sample[positions.index(position), :, 0 if image is None else frames - 1] = float("nan")
        return inputs

    Objective.training_inputs = spoilt


def train_and_replay(config: TrainConfig, settings: Path, image: int | None) -> tuple[list[str], list[str], str, list]:
    """Train to step 4, whose row at BAD is spoilt: what the log says of it, and replays of step 4 and of step 2."""
    import logging

    from lavie.distributed import barrier
    from lavie.training.replay import replay
    from lavie.training.trainer import Trainer

    spoilt_at(BAD, image)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("lavie").addHandler(handler)
    with Trainer(config, settings) as trainer:
        trainer.fit()
    told = [line for line in lines if line.startswith("step")]
    before = {path: path.read_bytes() for path in Path(config.output_dir).rglob("*") if path.is_file()}
    bad = replay(config, settings, 4)
    good = replay(config, settings, 2) if image is None else ""
    barrier()  # rank 0 has deleted what it wrote meanwhile
    after = {path: path.read_bytes() for path in Path(config.output_dir).rglob("*") if path.is_file()}
    changed = sorted(str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return told, bad.splitlines(), good, changed


@pytest.mark.slow
@pytest.mark.parametrize("ranks, stage, image", ((1, 0, 0), (2, 3, None)))
def test_the_culprit_is_found_among_the_samples_of_a_step(rendered, tmp_path, ranks, stage, image):
    changes = SMALL | {"max_train_steps": 4, "checkpointing_steps": 1, "gradient_accumulation_steps": 2}
    config = make_config(rendered, tmp_path / "run", **changes | {"train_batch_size": 2 // ranks})
    [(told, bad, good, changed), *_] = run_distributed(
        train_and_replay, ranks, config, deepspeed_json(tmp_path, stage), image
    )

    # The row, and in it the clip or the image; the message of the run has named the same.
    assert bad[0] == f"step 4, row by row, with the weights of {config.output_dir}/checkpoint-3"
    assert [int(line.split()[0]) for line in bad[2:6]] == [12, 13, 14, 15]
    assert ["NO" in line for line in bad[2:6]] == [False, True, False, False]
    clip, joined = bad[3].partition("NO")[2].strip().split(", ")
    culprit = clip if image is None else joined
    assert bad[6:] == [
        f"not finite at position {BAD}: {culprit}",
        f"to leave out what comes again: 'data.exclude=[\"{culprit}\"]'",
    ]
    [line] = told
    assert f"position {BAD} on rank {BAD % 4 // 2 if ranks == 2 else 0}: {culprit}" in line
    assert bad[7].partition("data.exclude")[2] in line

    # A good step: the mean of its rows is the step's loss, and the weights were those of step 1.
    assert changed == []
    if image is not None:
        return
    losses = [float(row.split()[2]) for row in good.splitlines()[2:6]]
    assert sum(losses) / 4 == pytest.approx(records(config)[1]["loss"], rel=1e-3)
    assert "all are finite; the largest grad_norm is that of position" in good


def test_samples_are_left_out_beside_those_that_are_already(tmp_path):
    data = make_config(tmp_path, tmp_path / "run", data={"exclude": ("b c",)}).data
    [word] = shlex.split(excluding(["it's", "b c"], data))
    assert word == 'data.exclude=["b c", "it\'s"]'
    of_file = data.model_copy(update={"exclude": "/lists/bad.txt"})
    assert excluding(["a"], of_file) == "lines a in /lists/bad.txt (data.exclude)"


def test_what_cannot_be_replayed_is_refused_and_makes_no_folder(tmp_path):
    from lavie.training.replay import replay

    config = make_config(tmp_path, tmp_path / "mistyped")
    for step in (0, config.max_train_steps + 1):
        with pytest.raises(ConfigError, match=f"--replay {step}: wanted a step from 1 to max_train_steps"):
            replay(config, "zero3.json", step)
    with pytest.raises(ConfigError, match="mistyped is no folder"):
        replay(config, "zero3.json", 1)
    assert not (tmp_path / "mistyped").exists()
