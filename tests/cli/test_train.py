"""The command `train.py`: its flags, and the one message and exit code 200 that follow a mistake."""

from pathlib import Path

import pytest

import train
from lavie.errors import TrainingError
from lavie.pages.report import build
from lavie.training import stop, trainer
from tests.cli.commands import run

SMOKE = "configs/smoke/base.yaml"


def test_overrides_may_follow_flags(call):
    code, out = call(train.main, SMOKE, "--dry-run", "seed=77")
    assert code is None
    assert "seed: 77" in out


@pytest.mark.parametrize("flag", ("--deepspeed", "--deepspeed_config"))
def test_launchers_arguments_are_accepted(call, flag):
    code, out = call(train.main, "--local_rank=1", flag, "configs/zero2.json", SMOKE, "--dry-run")
    assert code is None
    assert '"stage": 2' in out


@pytest.mark.parametrize(
    "arguments, words",
    (
        ([SMOKE, "learning_rat=1"], ["unknown key learning_rat", "learning_rate?"]),
        ([SMOKE, "train_batch_size=0"], ["train_batch_size", "got 0"]),
        ([SMOKE, "seed"], ["override 'seed'", "key=value"]),
        ([SMOKE, "validation_prompts=a fox"], ["validation_prompts: wanted a list"]),
        (["nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["--deepspeed", "nowhere.json", SMOKE], ["--deepspeed nowhere.json"]),
    ),
)
def test_train_answers_a_mistake_in_one_line(call, arguments, words):
    code, out = call(train.main, "--dry-run", *arguments)
    assert out == ""
    assert code.startswith("ConfigError: ")
    assert len(code.splitlines()) == 1
    for word in words:
        assert word in code


def test_train_exits_with_200_and_no_traceback():
    done = run("train.py", SMOKE, "learning_rat=1")
    assert done.returncode == 200
    assert done.stdout == ""
    assert done.stderr.startswith("ConfigError: ")
    assert "Traceback" not in done.stderr


def test_train_help_names_its_flags(call):
    code, out = call(train.main, "--help")
    assert code == 0
    for name in ("--deepspeed", "--dry-run", "--replay STEP", "key=value", "configs/base.yaml"):
        assert name in out


def test_settings_that_cannot_sample_are_refused_before_training(call):
    code, out = call(train.main, SMOKE, "sampling.num_inference_steps=1")
    assert out == ""
    assert code.startswith("ConfigError: num_inference_steps")
    assert "2 to 500" in code


def test_no_precision_needs_no_quotes(call):
    code, out = call(train.main, "--dry-run", SMOKE, "mixed_precision=no")
    assert code is None
    assert "mixed_precision: 'no'" in out


@pytest.mark.parametrize("end, code", ((True, 0), (False, 85), (TrainingError("10 steps in a row"), 200)))
@pytest.mark.parametrize("room", (True, False))
def test_a_run_ends_with_a_report_and_the_code_that_it_would_have_without(call, monkeypatch, tmp_path, end, code, room):
    class Run:
        """A run that has begun, and ends at once."""

        def __init__(self, config, *_, **__):
            Path(config.output_dir).mkdir()
            (Path(config.output_dir) / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def fit(self):
            if isinstance(end, Exception):
                raise end
            return end

    monkeypatch.setattr(trainer, "Trainer", Run)
    if not room:
        monkeypatch.setattr(build, "page", lambda *_: 1 / 0)
    left = []
    monkeypatch.setattr(stop, "leave", left.append)
    call(train.main, SMOKE, f"output_dir={tmp_path / 'run'}")
    assert left == [code]
    assert (tmp_path / "run/report.html").exists() == room


def test_a_run_that_never_began_leaves_no_report(call, monkeypatch, tmp_path):
    """The folder may be another run's."""
    (tmp_path / "config.yaml").write_text("stage: base")

    def refuse(*_, **__):
        raise TrainingError("holds another run")

    monkeypatch.setattr(trainer, "Trainer", refuse)
    call(train.main, SMOKE, f"output_dir={tmp_path}")
    assert not (tmp_path / "report.html").exists()
