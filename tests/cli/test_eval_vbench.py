import json
import os

import numpy as np
import pytest

from lavie.cli.main import main
from lavie.data.media.encode import encode_mp4
from lavie.evaluation.measured import read_result
from lavie.inference.jobs import read_jobs
from tests.cascades import cascade_folder
from tests.evaluation.vbench.suites import write_suite

__all__ = ["cascade_folder"]

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


@pytest.mark.slow
def test_samples_are_drawn_and_scored_and_the_results_read_back(call, cascade_folder, tmp_path):
    """Prepare, sample, score, total, as docs/evaluation.md shows them."""
    prompts = write_suite(tmp_path / "info.json")
    plan, samples, results = tmp_path / "plan.jsonl", tmp_path / "samples", tmp_path / "results.json"
    names = ("--dimensions", "temporal_flickering,motion_smoothness", "--flicker-samples", "5")
    call(main, "eval", "vbench", "prepare", "--prompts", str(prompts), "--out", str(plan), *names)
    _, out = call(main, "sample", str(cascade_folder / "base"), "--jobs", str(plan), "--out", str(samples))
    assert "10 of 10 samples drawn" in out
    score = ("eval", "vbench", "score", str(samples), "--prompts", str(prompts), "--out", str(results))
    error, out = call(main, *score)
    assert "a frozen clip scores 1 here" in error
    for name in ("temporal_flickering", "lavie_blend"):
        one = read_result(tmp_path / f"results.{name}.json")
        assert f"{name} {one['value']:.4f}, 5 clips, protocol {one['protocol_hash']}" in out
        assert f"their motion: {one['motion']['difference']:.2f} of 255 levels a frame" in out
    assert len(json.loads(results.read_text(encoding="utf-8"))["temporal_flickering"][1]) == 5
    error, out = call(main, "eval", "vbench", "total", str(results), "--json")
    assert "not counted: lavie_blend, lavie_motion_difference" in error
    flicker = read_result(tmp_path / "results.temporal_flickering.json")["value"]
    assert json.loads(out)["scores"]["temporal_flickering"] == pytest.approx(100 * flicker)
    error, _ = call(main, *score)
    assert "results.json exists" in error


def test_a_folder_of_clips_is_scored_without_prompts(call, tmp_path):
    (tmp_path / "clips").mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), dtype=np.uint8)
    (tmp_path / "clips/a.mp4").write_bytes(encode_mp4(frames, 8))
    score = ("eval", "vbench", "score", str(tmp_path / "clips"), "--out", str(tmp_path / "r.json"), "--dimensions")
    error, out = call(main, *score, "blend")
    assert out.startswith("lavie_blend 0.") and "custom mode" in error
    assert {path.name for path in tmp_path.glob("*.json")} == {"r.json", "r.lavie_blend.json"}


@pytest.mark.parametrize(
    "more, words",
    (
        (("--out", "r"), "wanted a .json"),
        (("--out", "r.json", "--dimensions", "subject_consistency"), "subject_consistency: needs --dino FOLDER"),
        (("--out", "r.json", "--dimensions", "background_consistency"), "background_consistency: needs --clip"),
        (
            ("--out", "r.json", "--dimensions", "motion_smoothness"),
            "motion_smoothness: wanted of temporal_flickering, blend",
        ),
        (("--out", "r.json", "--dimensions", " ,"), "--dimensions is empty"),
        (("--out", "r.json", "--dimensions", "blend"), "no such file or folder"),
        (("--out", "r.json", "--dino", "."), "config.json cannot be read"),
    ),
)
def test_what_cannot_be_scored_is_refused_before_any_work(call, more, words):
    error, _ = call(main, "eval", "vbench", "score", "nowhere", *more)
    assert words in error


def test_a_dimension_that_no_prompt_is_of_is_named(call, tmp_path):
    prompts = write_suite(tmp_path / "info.json")
    prepare = ("eval", "vbench", "prepare", "--prompts", str(prompts), "--out", str(tmp_path / "vb"), "--dimensions")
    for asked, absent in (("color", "color"), ("scene,color,human_action", "human_action, color")):
        error, _ = call(main, *prepare, asked)
        assert f"no prompt of {prompts} is of {absent}: leave it out" in error
    assert not (tmp_path / "vb").exists()


def test_a_dimension_without_any_file_is_to_be_left_out(call, tmp_path):
    prompts = write_suite(tmp_path / "info.json")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.mp4").touch()
    score = ("eval", "vbench", "score", str(tmp_path / "clips"), "--prompts", str(prompts), "--partial")
    error, _ = call(main, *score, "--out", str(tmp_path / "r.json"))
    assert "temporal_flickering: 5 of 5 files missing" in error and "or leave it out of --dimensions" in error


def test_a_folder_whose_name_is_no_utf8_is_scored(call, tmp_path):
    clips = tmp_path / os.fsdecode(b"caf\xe9")
    clips.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), dtype=np.uint8)
    (clips / "a.mp4").write_bytes(encode_mp4(frames, 8))
    call(main, "eval", "vbench", "score", str(clips), "--out", str(tmp_path / "r.json"))
    _, [row] = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["temporal_flickering"]
    assert row["video_path"] == str(clips / "a.mp4")
