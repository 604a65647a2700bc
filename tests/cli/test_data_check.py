"""The command `lavie data check`: its files, its exit code, and nothing that reaches the terminal."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
import typer.testing
from PIL import Image

from lavie.cli.data import app as data
from lavie.cli.data_check import _table, check_command, duration_text
from lavie.data.check.report import PROBLEMS, UNUSABLE, CheckReport
from lavie.errors import DataError
from tests.data.check.planted import GOOD, make_shard
from tests.models.tokenizer import save_tokenizer

ROOT = Path(__file__).resolve().parents[2]


def run_cli(*args: object):
    app = typer.Typer()
    app.command()(check_command)
    return typer.testing.CliRunner().invoke(app, [str(a) for a in args])


def test_cli_writes_the_report_and_pictures(demo, tmp_path):
    result = run_cli(demo / "train", "--decode", 3, "--num-frames", 8, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "check.json").read_text())
    assert facts["usable"]
    assert facts["videos"] == 24
    assert facts["decoded"] == 3
    assert facts["findings"] == []
    for name in ("statistics.png", "sheet.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert picture.min() < 60
        assert picture.max() > 200


@pytest.mark.slow
def test_cli_fails_where_samples_cannot_train(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    assert run_cli(tmp_path / "train", "--num-frames", 99, "--out", tmp_path / "out").exit_code == 1
    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert facts["problems"]["too short"] == 24
    assert not facts["usable"]


def test_cli_names_what_is_no_shard(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        assert isinstance(run_cli(path, "--out", tmp_path / "out").exception, DataError)
    assert isinstance(run_cli(tmp_path, "--fps", 8, "--frame-stride", 2).exception, DataError)


def test_names_cannot_reach_the_terminal(tmp_path):
    members = {**GOOD, "evil\x1b[2Jname.pkl": b""}
    result = run_cli(make_shard(tmp_path / "0.tar", members), "--out", tmp_path / "out")
    assert "\x1b[2J" not in result.output
    assert "unsafe name" in result.output


@pytest.mark.parametrize("name", ("smoke/base", "smoke/base.yaml", "configs/smoke/base.yaml"))
def test_a_shipped_config_may_be_named(demo, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data = [f"data.train={demo / 'train'}", "data.validation=[]"]
    result = run_cli("--config", name, "--decode", 0, "--out", tmp_path / "out", *data)
    assert result.exit_code == 0, result.output
    assert "no such file here, and none is shipped" in str(run_cli("--config", "nowhere").exception)


def test_a_runs_data_are_judged_by_its_config(demo, tmp_path):
    """The demo has clips of 12 frames: too short for the default of 16, long enough for the run."""
    config = tmp_path / "run.yaml"
    config.write_text((ROOT / "configs/smoke/base.yaml").read_text())
    data = [f"data.train={demo / 'train'}", f"data.validation={demo / 'validation'}"]
    given = ("--config", config, "--decode", 0, "--overwrite", "--out", tmp_path / "out", *data)
    result = run_cli(*given)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert [Path(shard["shard"]).parent.name for shard in facts["shards"]] == ["train", "validation"]
    assert "seconds" in result.output
    assert run_cli(*given, "data.num_frames=30").exit_code == 1
    dropping = run_cli(*given, "data.min_size=33", "data.drop_short=true")
    assert dropping.exit_code == 0
    problems = json.loads((tmp_path / "out/check.json").read_text())["problems"]
    assert problems["left out by the run"] == facts["videos"] + facts["images"]
    assert "leave out --num-frames" in str(run_cli(*given, "--num-frames", 8).exception)
    assert "wanted shards" in str(run_cli().exception)


@pytest.mark.parametrize(
    "seconds, text",
    (
        (2.5, "2.5 seconds"),
        (119.9, "119.9 seconds"),
        (120, "2.0 minutes"),
        (144, "2.4 minutes"),
        (7194, "119.9 minutes"),
        (7200, "2.0 hours"),
        (36000, "10.0 hours"),
        (3.6e6 * 1.5, "1,500.0 hours"),
    ),
)
def test_times_have_the_unit_that_suits_them(seconds, text):
    assert duration_text(seconds) == text


def test_captions_longer_than_clip_reads_are_counted(tmp_path):
    texts = {"a": " ".join(["the"] * 75), "b": " ".join(["the"] * 76)}
    members = {f"{key}.txt": text.encode() for key, text in texts.items()}
    members |= {f"{key}.mp4": GOOD["a.mp4"] for key in texts}
    run_cli(make_shard(tmp_path / "0.tar", members), "--decode", 0, "--out", tmp_path / "out")
    findings = json.loads((tmp_path / "out/check.json").read_text())["findings"]
    found = [finding for finding in findings if finding["reason"] == "long caption"]
    assert [(f["name"][-5:], f["detail"][:8]) for f in found] == [("b.mp4", "76 words")]


def test_captions_are_measured_by_a_tokenizer_where_one_is_given(tmp_path):
    """A word of the small tokenizer has as many tokens as letters, but "cat" has one."""
    texts = {"a": "cat " * 75, "b": "dog " * 25 + "a"}
    members = {f"{key}.txt": text.encode() for key, text in texts.items()}
    members |= {f"{key}.mp4": GOOD["a.mp4"] for key in texts}
    shard, sd = make_shard(tmp_path / "0.tar", members), tmp_path / "sd"
    sd.mkdir()
    save_tokenizer(sd / "tokenizer")
    config = [
        ROOT / "configs/smoke/base.yaml",
        "text_encoder={type: clip, max_length: 77}",
        f"pretrained_model_name_or_path={sd}",
    ]
    for given in (["--tokenizer", sd], ["--tokenizer", sd / "tokenizer"], ["--config", *config]):
        result = run_cli(shard, "--decode", 0, "--overwrite", "--out", tmp_path / "out", *given)
        facts = json.loads((tmp_path / "out/check.json").read_text())
        found = [finding for finding in facts["findings"] if finding["reason"] == "long caption"]
        assert [(f["name"][-5:], f["detail"][:10]) for f in found] == [("b.mp4", "76 tokens:")], given
        assert facts["captions"]["long"] == "1 have more than 77 tokens; CLIP reads the first 75"
        assert "more than 77 tokens; CLIP" in " ".join(result.output.split())


def test_pack_measures_by_a_tokenizer(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    (source / "b.mp4").write_bytes(GOOD["a.mp4"])
    (source / "b.txt").write_text("dog " * 25 + "a")
    given = [str(source), str(tmp_path / "out"), "--num-frames", "4", "--workers", "1"]
    result = typer.testing.CliRunner().invoke(
        data, ["pack", *given, "--tokenizer", str(save_tokenizer(tmp_path / "t"))]
    )
    assert "captions of more than 77 tokens; CLIP reads the first 75" in " ".join(result.output.split())


def test_what_keeps_samples_from_training_is_red():
    """And what is only worth a look is yellow."""
    report = CheckReport()
    for problem in PROBLEMS:
        report.note("0.tar", problem)
    styles = {row[0]: style for row, style in rows_of(_table(report))}
    assert {styles[problem] for problem in UNUSABLE} == {"red"}
    assert {styles[problem] for problem in PROBLEMS if problem not in UNUSABLE} == {"yellow"}
    assert styles["videos"] is None


def rows_of(table):
    """The texts of each row of a table, and its style."""
    columns = [[*column.cells] for column in table.columns]
    return [(texts, row.style) for texts, row in zip(zip(*columns, strict=True), table.rows, strict=True)]
