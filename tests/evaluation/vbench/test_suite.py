import os
from pathlib import Path

import pytest

from lavie.errors import DataError
from lavie.evaluation.vbench.dimensions import DIMENSIONS
from lavie.evaluation.vbench.suite import jobs, manifest, read_suite
from tests.evaluation.vbench.suites import write_suite

REAL = os.environ.get("LAVIE_VBENCH_PROMPTS")
requires_prompts = pytest.mark.skipif(not REAL, reason="LAVIE_VBENCH_PROMPTS names no VBench_full_info.json")


def test_each_distinct_prompt_is_drawn_once_for_all_its_dimensions(tmp_path):
    suite = read_suite(write_suite(tmp_path / "info.json"))
    assert suite.entries == 5 and [prompt.number for prompt in suite.prompts] == [0, 1, 2, 3]
    assert suite.prompts[2].dimensions == ("appearance_style", "overall_consistency", "aesthetic_quality")
    planned = list(jobs(suite, DIMENSIONS))
    assert [job.name for job in planned] == [
        *(f"In a still frame, a sign-{i}.mp4" for i in range(25)),
        *(f"{text}-{i}.mp4" for text in ("a dog runs", "a façade, oil painting", "a beach") for i in range(5)),
    ]
    assert len({job.index for job in planned}) == 40


def test_a_smaller_plan_has_files_and_noise_of_the_larger_one(tmp_path):
    suite = read_suite(write_suite(tmp_path / "info.json"))
    whole = {job.name: job.index for job in jobs(suite, DIMENSIONS)}
    for smaller in (jobs(suite, DIMENSIONS, 5), jobs(suite, ["scene", "temporal_flickering"], 10)):
        some = {job.name: job.index for job in smaller}
        assert some.items() < whole.items()


def test_the_manifest_counts_what_the_jobs_are(tmp_path):
    suite = read_suite(write_suite(tmp_path / "info.json"))
    found = manifest(suite, ["temporal_flickering", "scene", "appearance_style"], 5)
    assert (found["entries"], found["prompts"], found["files"], found["release"]) == (5, 3, 15, None)
    assert found["dimensions"] == {
        name: {"prompts": 1, "files": 5} for name in ("temporal_flickering", "scene", "appearance_style")
    }
    assert found["by_prompt"][1] == {
        "prompt": "a façade, oil painting",
        "dimensions": ["appearance_style", "overall_consistency", "aesthetic_quality"],
        "files": 5,
    }
    assert "static_filter.py" in found["notes"][0] and "fewer" in found["notes"][0]


def test_prompts_that_some_file_systems_take_for_one_are_told(tmp_path):
    entries = [{"prompt_en": text, "dimension": ["scene"]} for text in ("a sea", "A sea", "a lake")]
    (note,) = manifest(read_suite(write_suite(tmp_path / "info.json", entries)), DIMENSIONS)["notes"]
    assert note.startswith("'a sea': 2 prompts differ in upper case only")


LONG = "é" * 124
"""248 bytes: with -24.mp4 a name of 255 bytes."""


@pytest.mark.parametrize(
    "entries, words",
    (
        ({"prompt_en": "a"}, "wanted a list"),
        ([], "wanted a list"),
        ([{"prompt_en": "a", "dimension": ["scene"]}, "b"], "entry 2: wanted"),
        ([{"prompt_en": "a", "dimension": "scene"}], "wanted a list of names"),
        ([{"prompt_en": "a", "dimension": ["scenery"]}], "'scenery': wanted of subject_consistency"),
        ([{"prompt_en": " ", "dimension": ["scene"]}], "empty"),
        ([{"prompt_en": "day/night", "dimension": ["scene"]}], "slash"),
        ([{"prompt_en": ".. a", "dimension": ["scene"]}], "begins with a dot"),
        ([{"prompt_en": LONG + "a", "dimension": ["scene"]}], "256 bytes"),
    ),
)
def test_prompts_that_cannot_name_files_are_refused(entries, words, tmp_path):
    with pytest.raises(DataError, match=words):
        read_suite(write_suite(tmp_path / "info.json", entries))


def test_a_name_of_255_bytes_is_taken(tmp_path):
    suite = read_suite(write_suite(tmp_path / "info.json", [{"prompt_en": LONG, "dimension": ["temporal_flickering"]}]))
    name = [job.name for job in jobs(suite, DIMENSIONS)][-1]
    assert len(name.encode()) == 255
    (tmp_path / name).touch()


@requires_prompts
def test_the_counts_of_vbenchs_own_prompts():
    suite = read_suite(Path(REAL))
    assert (suite.entries, len(suite.prompts), suite.release) == (946, 944, "vbench 0.1.5")
    assert len(list(jobs(suite, DIMENSIONS, 5))) == 4720
    whole = manifest(suite, DIMENSIONS)
    assert whole["files"] == 6220 == len({job.name for job in jobs(suite, DIMENSIONS)})
    counts = {name: row["prompts"] for name, row in whole["dimensions"].items()}
    assert counts == {
        "subject_consistency": 72,
        "background_consistency": 86,
        "temporal_flickering": 75,
        "motion_smoothness": 72,
        "dynamic_degree": 72,
        "aesthetic_quality": 93,
        "imaging_quality": 93,
        "object_class": 79,
        "multiple_objects": 82,
        "human_action": 100,
        "color": 85,
        "spatial_relationship": 84,
        "scene": 86,
        "appearance_style": 90,
        "temporal_style": 100,
        "overall_consistency": 93,
    }
    assert any(note.startswith("'a fantasy landscape'") for note in whole["notes"])
