"""The page as a file: its policy, what it lets in, how large it may be, and what it does to the run that writes it."""

import json
import re

import pytest

from lavie.errors import ConfigError
from lavie.pages.report import build
from lavie.pages.report.build import policy, write_last_report, write_report
from lavie.pages.report.read import read
from lavie.run_folder import REPORT
from tests.pages.report.folders import HOSTILE, lines, result, some_run, step


@pytest.fixture
def folder(tmp_path):
    return some_run(tmp_path / "run")


def written(tmp_path, *runs):
    return write_report(runs, tmp_path / "pages/report.html").read_text(encoding="utf-8")


def test_nothing_but_the_page_itself_may_run_or_load(folder, tmp_path):
    text = written(tmp_path, folder)
    [shown] = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)">', text)
    [style], [script] = (re.findall(f"<{name}>(.*?)</{name}>", text, re.S) for name in ("style", "script"))
    assert shown == policy(script, style) and shown.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in shown
    assert not re.findall(r" (?:style|on\w+)=", text)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', text))
    assert all(place.startswith("#") for place in re.findall(r'href="([^"]*)"', text))
    assert not re.findall(r"https?:|//\w+\.\w", re.sub(r"base64,[^\"]*", "", text))
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["report.html"]


def test_every_part_is_there(folder, tmp_path):
    text = written(tmp_path, folder)
    for words in (
        "Training loss", "Norm of the gradient", "Held-out loss by timestep", "t = 625", "Learning rate", "Throughput",
        "Waiting for data", "Most memory so far", "ETTR", "Shares of the datasets: videos",
        "Samples replaced, by cause", "Starts and resumes", "Checkpoints", "Results of evaluations", "95 % interval",
        "9f" * 8, "torch 2.13", "config.yaml of run", "bbbbbbbbbbbb-dirty", "image_loss_weight",
    ):  # fmt: skip
        assert words in text, words


def test_text_of_a_run_stays_text(tmp_path):
    folder = some_run(tmp_path / f"{HOSTILE[:8].replace('/', '-')}<b>", prompts=(HOSTILE,), note=HOSTILE)
    lines(folder / "dropped-rank0.jsonl", {"step": 1, "reason": f"x: {HOSTILE.replace('/', '')}"})
    lines(folder / "metrics.jsonl", step(1, device=HOSTILE), {"step": 1, f"eval_{HOSTILE}": 1.0})
    text = written(tmp_path, folder)
    assert text.count("<script") == 2 and text.count("</script>") == 2 and text.count("</style>") == 1
    assert "<img" not in text and "<b>run" not in text and "onerror=&quot;" in text


def test_a_large_page_links_its_clips(folder, tmp_path, monkeypatch):
    assert "data:video/mp4" in written(tmp_path, folder)
    size = (tmp_path / "pages/report.html").stat().st_size
    for limit in (size - 1, 1000):  # found by the page itself, and before it is made
        monkeypatch.setattr(build, "LIMIT", limit)
        text = written(tmp_path, folder)
        assert "data:video/mp4" not in text and 'src="../run/samples/step-000008/00000.mp4"' in text
        assert "keep it in its folder" in text


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("")
    text = written(tmp_path, folder)
    assert text.count("not measured") > 20 and "<svg viewBox=" not in text
    lines(folder / "metrics.jsonl", step(1))
    assert "<svg viewBox=" in written(tmp_path, folder)


def test_what_could_not_be_read_stands_at_the_top(folder, tmp_path):
    (folder / "config.yaml").write_bytes(b"stage: \xff")
    text = written(tmp_path, folder)
    assert text.index("run: config.yaml cannot be read: ") < text.index("Training loss")


def test_a_report_that_fails_leaves_the_one_before(folder, tmp_path):
    written(tmp_path, folder)
    with pytest.raises(ConfigError):
        written(tmp_path, folder, tmp_path / "nowhere")
    assert "Training loss" in (tmp_path / "pages/report.html").read_text(encoding="utf-8")


def test_the_end_of_a_run_writes_its_page(folder, caplog):
    write_last_report(folder)
    assert (folder / REPORT).is_file() and not [r for r in caplog.records if r.levelname != "INFO"]


@pytest.mark.parametrize(
    "error", (OSError(28, "No space left on device"), ZeroDivisionError("two\nlines"), MemoryError())
)
def test_a_report_fails_no_run(folder, monkeypatch, caplog, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(build, "write_report", fail)
    write_last_report(folder)
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith(f"no report was written ({type(error).__name__}: ") and "\n" not in told
    assert told.endswith(f"lavie report {folder} writes it later")


def test_a_place_that_is_taken_fails_no_run(folder, caplog):
    (folder / REPORT).mkdir()
    write_last_report(folder)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not [path for path in folder.iterdir() if path.suffix == ".partial"]


@pytest.mark.parametrize(
    "changes",
    (
        {"loss": 1.7e308},
        {"loss": -1.7e308},
        {"lr": 1.7e308},
        {"lr": 10**400},
        {"memory": -(2**64)},
        {"step": 10**400},
        {"step": 2**60},
        {"epoch": [[10**400]]},
    ),
)
def test_numbers_that_no_run_writes_are_damaged_lines(tmp_path, caplog, changes):
    run = some_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(step(9) | changes) + "\n")
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "start", "step": 8, "lost_steps": 10**400, "time": 1e9}) + "\n")
    write_report([run], tmp_path / "out.html")
    [seen] = read([run])
    assert seen.steps == (0, 8) and len(seen.of_kind("start")) == 2
    assert "metrics.jsonl: 1 damaged line left out" in caplog.text
    assert "events.jsonl: 1 damaged line left out" in caplog.text


def test_the_largest_numbers_that_are_taken_can_be_drawn(tmp_path):
    run = some_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        for number, value in enumerate((1e100, -1e100, 1e100, 5e-324, float("inf"), float("nan")), 9):
            odd = dict.fromkeys(("loss", "lr", "seconds", "data_wait_s", "samples_per_s", "memory", "ettr"), value)
            file.write(json.dumps(step(number) | odd | {"dropped": 2**63 - 1}) + "\n")
        file.write(json.dumps(step(2**53)) + "\n")
    odd = {"event": "start", "step": 2**53, "lost_steps": 2**63 - 1, "lost_s": 1e100, "time": 1e100}
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps(odd) + "\n" + json.dumps({"event": "save", "step": 9, "stall_s": 1e100}) + "\n")
    (run / "clipsim.json").write_text(json.dumps(result(value=1.7e308, interval=[-1.7e308, 1.7e308], n=10**300)))
    write_report([run, some_run(tmp_path / "other")], tmp_path / "out.html")
    assert read([run])[0].steps == (0, 2**53)


@pytest.mark.parametrize("depth", (40, 90, 150, 300, 5000))
@pytest.mark.parametrize("opening", ("[", "{a: "))
def test_a_config_that_is_nested_deep_is_told_or_shown(tmp_path, depth, opening):
    run = some_run(tmp_path / "run")
    closing = {"[": "]", "{a: ": "}"}[opening]
    (run / "config.yaml").write_text(f"stage: {opening * depth}{closing * depth}")
    write_report([run], tmp_path / "out.html")
    if depth == 5000:
        assert read([run])[0].faults == [
            f"config.yaml cannot be read: config {run}/config.yaml: brackets or lines are nested too deep"
        ]


def test_a_huge_weight_of_a_config_is_no_number(tmp_path):
    run = some_run(tmp_path / "run", image_loss_weight=10**400)
    assert "video + image, weighted" in write_report([run], tmp_path / "out.html").read_text()


def test_a_very_long_prompt_is_shown_shortened(tmp_path):
    run = some_run(tmp_path / "run", prompts=("fox " * 5000,), validation_prompts=[])
    text = write_report([run], tmp_path / "out.html").read_text()
    assert "… (20,000 characters)" in text and "fox " * 100 not in text
