"""What a run's folder shows, whole, cut off, or damaged."""

import json

import pytest

from lavie.errors import ConfigError, DataError
from lavie.pages.report.read import read, results_in
from tests.pages.report.folders import lines, result, some_run


def test_a_run_as_it_was_left(tmp_path):
    [seen] = read([some_run(tmp_path / "run")])
    assert seen.run.name == "run" and seen.steps == (0, 8) and seen.faults == []
    assert dict(seen.causes) == {"cut off": 2, "too long": 1}
    assert {number: len(samples) for number, samples in seen.samples.items()} == {0: 2, 8: 2}
    assert [path.name for path, _ in seen.results] == ["clipsim.json"]
    assert seen.checkpoints == {8: True} and seen.facts["commit"] == "b" * 40 + "-dirty"


def test_a_folder_that_is_no_run_is_named(tmp_path):
    good = some_run(tmp_path / "run")
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=f"^{place} is no run: it has neither metrics.jsonl nor config.yaml"):
            read([good, place])
    with pytest.raises(ConfigError, match="given twice"):
        read([good, good])


def test_what_is_cut_or_damaged_costs_nothing_else(tmp_path):
    folder = some_run(tmp_path / "run")
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text[: text.index('"step": 6') + 30])
    (folder / "config.yaml").write_text("a: [")
    (folder / "samples/step-000000/prompts.jsonl").write_text('{"name": "00000", "prom')
    (folder / "clipsim.json").write_text(json.dumps(result(value="high")))
    [seen] = read([folder])
    assert seen.steps == (0, 5) and list(seen.samples) == [8] and seen.results == []
    told = "\n".join(seen.faults)
    assert len(seen.faults) == 3
    for name in (
        "config.yaml cannot be read: ",
        "clipsim.json cannot be read: ",
        "samples/step-000000 cannot be read: ",
    ):
        assert name in told
    assert not any("\n" in fault for fault in seen.faults)


@pytest.mark.parametrize("name", ("../../secret", "/etc/passwd", 7))
def test_no_sample_leads_out_of_its_folder(tmp_path, name):
    folder = some_run(tmp_path / "run")
    lines(folder / "samples/step-000008/prompts.jsonl", {"name": name, "prompt": "a", "num_frames": 4})
    [seen] = read([folder])
    assert list(seen.samples) == [0] and len(seen.faults) == 1


def test_results_of_a_folder_pass_by_what_is_none(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(result("fvd")))
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "c.json").write_text("{")
    assert [found["metric"] for _, found in results_in(tmp_path)] == ["fvd"]
    with pytest.raises(DataError, match=r"b\.json: no result of `lavie eval`"):
        results_in(tmp_path / "b.json")
