"""What files in a run's folder and the clock ask for: all ranks do it after the same step, and the run goes on."""

import logging
from pathlib import Path

import pytest
import torch

from lavie.config.train import TrainConfig
from lavie.run_folder import checkpoints, step_of
from lavie.testing import run_distributed
from lavie.training import requests, signals
from lavie.training.requests import NOTHING, Asked, Requests
from tests.training.runs import deepspeed_json, draw_nothing, losses, make_config, records, train

CPU = torch.device("cpu")


def asked(config: TrainConfig, settings: Path, files: dict[int, list[str]]) -> bool:
    """Train, where rank 0 makes files during some steps; what `fit` returned."""
    from lavie.distributed import is_main
    from lavie.training import requests, trainer

    requests.LOOK_SECONDS = 0.0
    run = trainer.Trainer(config, settings, draw_nothing)
    step_of_run = run._step

    def step(number: int) -> object:
        for name in files.get(number, ()) if is_main() else ():
            (Path(config.output_dir) / name).touch()
        return step_of_run(number)

    run._step = step
    return run.fit()


@pytest.mark.slow
def test_files_and_the_clock_save_sample_and_stop_a_run_and_change_no_loss(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 2)
    changes = {"max_train_steps": 6, "validation_prompts": ["a"], "validation_steps": 6}
    whole = make_config(rendered, tmp_path / "whole", **changes)
    run_distributed(train, 2, whole, settings, draw_nothing)
    config = make_config(rendered, tmp_path / "run", **changes, resume_from_checkpoint="auto")
    folder = Path(config.output_dir)

    # SAMPLE stays where there is a hurry, and is served at the next start.
    files = {1: ["SAVE"], 2: ["SAMPLE"], 4: ["STOP", "SAMPLE"], 5: ["SAVE"]}
    assert run_distributed(asked, 2, config, settings, files) == [False, False]
    assert [step_of(path) for path in checkpoints(folder)] == [1, 4]
    assert sorted(path.name for path in (folder / "samples").glob("*/*")) == ["rank0", "rank1"]
    assert [name for name in ("SAVE", "SAMPLE", "STOP") if (folder / name).exists()] == ["SAMPLE"]

    # Damage in the records costs no resume, and a lost sample is written down once.
    metrics, dropped = folder / "metrics.jsonl", folder / "dropped-rank1.jsonl"
    metrics.write_bytes(metrics.read_bytes().replace(b'{"step": 2', b'\0\n{"step": 2'))
    dropped.write_text('{"step": 4, "key": "a"}\n{"step": 5, "key": "b"}\n')
    config = config.model_copy(update={"save_every_minutes": 1e-9})
    assert run_distributed(asked, 2, config, settings, {6: ["STOP", "SAVE"]}) == [True, True]
    assert [step_of(path) for path in checkpoints(folder)] == [1, 4, 5, 6]
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [f"step-{n:06d}" for n in (2, 4, 6)]
    assert not [name for name in ("SAVE", "SAMPLE", "STOP") if (folder / name).exists()]
    assert dropped.read_text() == '{"step": 4, "key": "a"}\n' and metrics.with_name("metrics.jsonl.damaged").exists()
    assert [record["step"] for record in records(config)] == [1, 2, 3, 4, 5, 6]
    assert losses(config) == losses(whole)


@pytest.fixture
def heard(rendered, tmp_path, monkeypatch):
    """Requests of a run of one rank in tmp_path, without waiting between two looks."""
    monkeypatch.setattr(signals, "_heard", signals._Heard())
    monkeypatch.setattr(signals, "ignore_termination", lambda: None)
    monkeypatch.setattr(requests, "LOOK_SECONDS", 0.0)
    return Requests(make_config(rendered, tmp_path), CPU)


def test_a_file_is_told_and_deleted_once_it_is_served(heard, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lavie")
    for name in ("SAVE", "SAMPLE"):
        (tmp_path / name).touch()
    assert heard.heard(3) == Asked.SAVE | Asked.SAMPLE
    assert f"{tmp_path}/SAVE asks for a checkpoint after step 3" in caplog.text
    assert "SAMPLE asks for a validation after step 3, but there is none: no validation_prompts" in caplog.text
    heard.served(Asked.SAVE)
    assert [path.name for path in tmp_path.iterdir()] == ["SAMPLE"]
    assert heard.heard(4) == Asked.SAMPLE


def test_a_file_that_cannot_be_deleted_asks_once(heard, tmp_path, caplog, monkeypatch):
    (tmp_path / "SAVE").touch()

    def unlink(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", unlink)
    heard.served(heard.heard(1))
    assert "SAVE cannot be deleted (Operation not permitted)" in caplog.text
    assert heard.heard(2) == NOTHING


def test_a_folder_of_that_name_asks_for_nothing_and_stays(heard, tmp_path):
    (tmp_path / "STOP").mkdir()
    assert heard.heard(1) == NOTHING
    heard.served(~NOTHING)
    assert (tmp_path / "STOP").is_dir()


def test_the_folder_is_looked_at_once_a_second(heard, tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "LOOK_SECONDS", 1.0)
    assert heard.heard(1) == NOTHING
    (tmp_path / "SAVE").touch()
    assert heard.heard(2) == NOTHING
    later = requests.time.monotonic() + 1.1
    monkeypatch.setattr(requests.time, "monotonic", lambda: later)
    assert heard.heard(3) == Asked.SAVE


def test_the_clock_begins_again_with_each_checkpoint(rendered, tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(requests.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(signals, "_heard", signals._Heard())
    run = Requests(make_config(rendered, tmp_path, save_every_minutes=0.5), CPU)
    wanted = []
    for clock[0] in (129.0, 130.0, 159.0, 161.0):
        wanted.append(run.heard(1) == Asked.SAVE)
        if wanted[-1]:
            run.saved()
    assert wanted == [False, True, False, True]
