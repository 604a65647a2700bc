import json

import pytest

from lavie.cli.main import main
from lavie.inference.jobs import read_jobs
from tests.evaluation.vbench.suites import write_suite

LAVIE = dict(
    subject_consistency=91.41,
    background_consistency=97.47,
    temporal_flickering=98.30,
    motion_smoothness=96.38,
    dynamic_degree=49.72,
    aesthetic_quality=54.94,
    imaging_quality=61.90,
    object_class=91.82,
    multiple_objects=33.32,
    human_action=96.80,
    color=86.39,
    spatial_relationship=34.09,
    scene=52.69,
    appearance_style=23.56,
    temporal_style=25.93,
    overall_consistency=26.41,
)
"""Table 5 of the paper, LaVie (pretrained)."""


def test_prepare_writes_jobs_that_sample_takes_and_their_manifest(call, tmp_path):
    prompts = write_suite(tmp_path / "info.json")
    arguments = ("eval", "vbench", "prepare", "--prompts", str(prompts), "--out")
    error, out = call(main, *arguments, str(tmp_path / "plan"))
    assert "40 files of 4 prompts (5 entries)" in out and "static_filter.py" in error
    jobs = read_jobs(tmp_path / "plan/jobs.jsonl")
    assert len(jobs) == 40 and jobs[0].name == "In a still frame, a sign-0.mp4"
    assert json.loads((tmp_path / "plan/jobs.manifest.json").read_text(encoding="utf-8"))["files"] == 40
    error, _ = call(main, *arguments, str(tmp_path / "plan"))
    assert "jobs.jsonl exists" in error

    few = tmp_path / "few.jsonl"
    call(main, *arguments, str(few), "--dimensions", "scene,temporal_flickering", "--flicker-samples", "5")
    assert [job.prompt for job in read_jobs(few)] == ["In a still frame, a sign"] * 5 + ["a beach"] * 5
    assert (tmp_path / "few.manifest.json").is_file()
    error, _ = call(main, *arguments, str(tmp_path / "b.jsonl"), "--dimensions", "scenery")
    assert "--dimensions scenery: wanted of subject_consistency" in error
    error, _ = call(main, *arguments, str(tmp_path / "b.jsonl"), "--dimensions", "human_action")
    assert "no prompt" in error
    error, _ = call(main, *arguments, str(tmp_path / "b.json"))
    assert "wanted a .jsonl" in error


def test_total_prints_the_totals_of_the_papers_table(call, tmp_path):
    results = tmp_path / "lavie.json"
    results.write_text(json.dumps({name: [value / 100, []] for name, value in LAVIE.items()}))
    error, out = call(main, "eval", "vbench", "total", str(results))
    assert [line.split()[-1] for line in out.splitlines()[-3:]] == ["78.78", "70.31", "77.08"]
    assert error in (0, None)
    _, out = call(main, "eval", "vbench", "total", str(results), "--json")
    found = json.loads(out)
    assert (found["quality"], found["semantic"], found["total"]) == pytest.approx((78.78, 70.31, 77.08), abs=0.01)


def test_total_says_which_dimensions_are_missing_and_how_they_count(call, tmp_path):
    parts = []
    for name in ("temporal_flickering", "scene", "lavie_blend"):
        parts.append(tmp_path / f"{name}.json")
        parts[-1].write_text(json.dumps({name: [0.5, []]}))
    error, out = call(main, "eval", "vbench", "total", *map(str, parts), "--json")
    assert "14 of 16 dimensions are missing, and VBench counts each as a score of 0" in error
    assert "not counted: lavie_blend" in error
    assert json.loads(out)["missing"][:2] == ["subject_consistency", "background_consistency"]
