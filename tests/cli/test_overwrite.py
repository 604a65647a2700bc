"""No command writes over results of an earlier call unless --overwrite says so."""

import json

import pytest

from lavie.cli import main as cli

SMALL = ("--clips", "4", "--images", "2", "--size", "32")


@pytest.mark.slow
def test_data_commands_leave_what_lies_there(call, demo, tmp_path):
    """Each of these has written its place once, by hand here; a second call must not replace it."""
    shards, mine = str(demo / "train"), tmp_path / "mine"
    mine.mkdir()
    (mine / "train").mkdir()
    for name in ("check.json", "plan.png", "losses.png", "train/00000.tar", "base.yaml"):
        (mine / name).write_text("mine")
    run = ["configs/smoke/base.yaml", f"data.train={shards}", f"data.validation={shards}"]
    commands = (
        ("data", "demo", str(mine), *SMALL),
        ("data", "check", shards, "--out", str(mine)),
        ("data", "plan", *run, "--out", str(mine / "plan.png")),
        ("plot", str(mine), "--out", str(mine / "losses.png")),
        ("config", "copy", "base.yaml", "--out", str(mine)),
    )
    for command in commands:
        code, _ = call(cli.main, *command)
        assert "exists: give another place, or --overwrite" in code, command
    assert {path.read_text() for path in mine.rglob("*") if path.is_file()} == {"mine"}

    for command in commands[:1] + commands[2:3]:
        code, _ = call(cli.main, *command, "--overwrite")
        assert code in (None, 0), code
    assert (mine / "train/00000.tar").read_bytes() != b"mine"
    assert (mine / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("words", (["--checkpoint", "{run}"], ["{run}"]))
def test_a_run_is_named_by_its_place_or_by_checkpoint(call, tmp_path, words):
    run = tmp_path / "run"
    (run / "checkpoint-1").mkdir(parents=True)
    records = [{"step": step, "loss": 1.0, "video_loss": 1.0, "image_loss": None, "grad_norm": 1.0} for step in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for place in (run, run / "checkpoint-1"):
        code, out = call(cli.main, "plot", *(word.format(run=place) for word in words))
        assert (code, out.split()[-1]) == (0, str(run / "losses.png"))


def test_several_runs_are_plotted_into_one_picture_here(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert call(cli.main, "plot", "a", "b")[0] == 0
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["losses.png"]
    assert (tmp_path / "losses.png").is_file()
    assert "losses.png exists: give another place, or --overwrite" in call(cli.main, "plot", "a", "b")[0]
    assert call(cli.main, "plot", "a", "b", "--overwrite")[0] == 0
    assert "several runs" in call(cli.main, "plot", "a", "b", "--checkpoint", "b")[0]


def test_the_report_of_a_run_lies_in_it_and_that_of_several_here(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name / "checkpoint-1").mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    for words in (("a",), ("a/checkpoint-1",), ("a", "b")):  # a run's own page is written anew
        assert call(cli.main, "report", *words)[0] == 0
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")) == [
        "a/report.html",
        "report.html",
    ]
    for words in (("a", "b"), ("a", "--out", "report.html")):
        assert "report.html exists: give another place, or --overwrite" in call(cli.main, "report", *words)[0]
        assert call(cli.main, "report", *words, "--overwrite")[0] == 0
    (tmp_path / "r.json").write_text('{"metric": "fvd"}')
    assert "no result of `lavie eval`" in call(cli.main, "report", "a", "--result", "r.json")[0]


@pytest.mark.parametrize(
    "command, words",
    (
        (["sample", "--out", "o", "--prompt", "a"], "RUN is missing"),
        (["score", "--out", "o", "x", "--checkpoint", "y"], "RUN is x and --checkpoint y"),
        (["export", "--checkpoint", "x"], "OUT is missing"),
        (["export", "--checkpoint", "nowhere", "o"], "CheckpointError: nowhere"),
        (["export", "nowhere", "o"], "CheckpointError: nowhere"),
        (["sample", "nowhere", "--out", "o", "--prompt", "a"], "CheckpointError: nowhere"),
        (["score", "nowhere", "--out", "o"], "CheckpointError: nowhere"),
        (["data", "cache", ".", "configs/smoke/base.yaml"], "give the config first, then the folder"),
        (["data", "cache", "configs/smoke/base.yaml"], "wanted CONFIG.yaml and OUT"),
        (["data", "plan", "smoke/base.yaml", "--learning_rat", "1"], "--learning_rate?"),
        (["data", "plan", "smoke/base.yaml", "seed"], "override 'seed': wanted key=value"),
    ),
)
def test_what_is_missing_or_said_twice_is_named(call, command, words):
    code, _ = call(cli.main, *command)
    assert words in code and len(code.splitlines()) == 1
