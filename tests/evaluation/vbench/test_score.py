import json
import unicodedata

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lavie.data.media.encode import encode_mp4
from lavie.errors import DataError
from lavie.evaluation.measured import compare
from lavie.evaluation.vbench.encoders import FramePath
from lavie.evaluation.vbench.pixels import flickering
from lavie.evaluation.vbench.score import score, vbench_layout
from lavie.evaluation.vbench.suite import read_suite
from lavie.evaluation.vbench.totals import read_scores
from lavie.testing import run_distributed
from tests.evaluation.vbench.suites import ENTRIES, write_suite

PIXELS = ("temporal_flickering", "lavie_blend")


def clip(seed, frames=4):
    """Moving noise, and what the decoder gives of it."""
    generator = np.random.default_rng(seed)
    steps = generator.integers(0, 40, (frames, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.cumsum(steps, axis=0).clip(0, 255).astype(np.uint8)


def write(path, frames):
    path.write_bytes(encode_mp4(frames, 8, lossless=True))


class Colours:
    """The mean colour of a frame, as a direction."""

    name, sha256 = "colours", "0" * 64
    path = FramePath(resampling="bilinear", mean=(0, 0, 0), deviation=(1, 1, 1))

    def __init__(self, is_vbenchs=True):
        self.is_vbenchs = is_vbenchs

    def __call__(self, frames):
        return F.normalize(torch.from_numpy(frames).float().mean(dim=(1, 2)) - 60, dim=-1)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Every file of three dimensions, lossless, and one that nobody asked for."""
    folder = tmp_path_factory.mktemp("samples")
    for number, entry in enumerate(ENTRIES[:2] + ENTRIES[3:4]):
        for sample in range(5):
            write(folder / f"{entry['prompt_en']}-{sample}.mp4", clip([number, sample], frames=4 + sample))
    write(folder / "another.mp4", clip(9))
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return read_suite(write_suite(tmp_path_factory.mktemp("suite") / "info.json"))


def names(prompt):
    return [f"{prompt}-{sample}.mp4" for sample in range(5)]


def test_each_dimension_is_scored_on_the_clips_of_its_prompts(samples, suite):
    found = score(samples, PIXELS, suite, {})
    assert list(found) == list(PIXELS)
    flicker, smooth = found["temporal_flickering"], found["lavie_blend"]
    assert list(flicker["scores"]) == names("In a still frame, a sign") and list(smooth["scores"]) == names(
        "a dog runs"
    )
    clips = [clip([0, sample], 4 + sample) for sample in range(5)]
    assert flicker["value"] == pytest.approx(np.mean([flickering(frames) for frames in clips]), abs=2e-3)
    assert flicker["n"] == 5 and flicker["data"]["prompts"] == 1 and flicker["interval"] is None
    assert flicker["motion"]["difference"] == pytest.approx(255 * (1 - flicker["value"]), rel=1e-4)
    assert flicker["motion_by_clip"].keys() == flicker["scores"].keys()
    assert flicker["protocol_hash"] != smooth["protocol_hash"]
    assert any("a frozen clip scores 1" in note for note in flicker["notes"])
    assert any("not the whole of a known release" in note for note in flicker["notes"])
    assert any("not VBench's motion_smoothness" in note for note in smooth["notes"])


def test_the_scores_are_those_of_the_decoded_frames(samples):
    found = score(samples, PIXELS, None, {})
    (one,) = score(samples / "another.mp4", PIXELS[:1], None, {})["temporal_flickering"]["scores"].values()
    assert found["temporal_flickering"]["scores"]["another.mp4"] == one
    assert found["temporal_flickering"]["n"] == 16 and len(found["temporal_flickering"]["interval"]) == 2


def test_consistency_weighs_clips_by_their_frames(samples, suite):
    found = score(samples, ["subject_consistency"], suite, {"subject_consistency": Colours()})
    result = found["subject_consistency"]
    scores = np.array(list(result["scores"].values()))
    assert scores.std() > 0.01
    assert result["value"] == pytest.approx(np.average(scores, weights=[3, 4, 5, 6, 7]))
    assert result["protocol"]["network"]["name"] == "colours"


def test_another_network_than_vbenchs_gives_another_name(samples, suite):
    found = score(samples, ["subject_consistency"], suite, {"subject_consistency": Colours(is_vbenchs=False)})
    (name,) = found
    assert name == "lavie_subject_consistency" == found[name]["protocol"]["dimension"]
    exact = score(samples, ["subject_consistency"], suite, {"subject_consistency": Colours()})
    assert found[name]["protocol_hash"] != exact["subject_consistency"]["protocol_hash"]


def test_files_that_are_missing_are_told_and_scored_around_on_demand_only(samples, suite, tmp_path):
    for name in names("In a still frame, a sign")[:3]:
        (tmp_path / name).symlink_to(samples / name)
    with pytest.raises(DataError, match=r"flickering: 2 of 5 files missing, as In a still frame, a sign-3.mp4"):
        score(tmp_path, PIXELS[:1], suite, {})
    result = score(tmp_path, PIXELS[:1], suite, {}, partial=True)["temporal_flickering"]
    assert result["n"] == 3 and result["data"]["missing"] == names("In a still frame, a sign")[3:]
    assert any("2 files of VBench's are missing" in note for note in result["notes"])
    with pytest.raises(DataError, match="lavie_blend: 5 of 5 files missing"):
        score(tmp_path, PIXELS, suite, {}, partial=True)


def test_clips_that_cannot_be_used_are_left_out_by_name(samples, suite, tmp_path):
    for name in names("a dog runs")[2:]:
        (tmp_path / name).symlink_to(samples / name)
    write(tmp_path / "a dog runs-0.mp4", clip(0, frames=2))
    (tmp_path / "a dog runs-1.mp4").write_bytes(b"no video")
    result = score(tmp_path, PIXELS[1:], suite, {})["lavie_blend"]
    assert result["n"] == 3 and list(result["data"]["dropped"]) == names("a dog runs")[:2]
    assert result["data"]["dropped"]["a dog runs-0.mp4"] == "2 frames: wanted 3 or more"
    assert "2 clips left out, see data.dropped" in result["notes"]


def test_names_with_accents_apart_are_found(tmp_path):
    entries = [{"prompt_en": "a façade. Dots", "dimension": ["motion_smoothness"]}]
    suite = read_suite(write_suite(tmp_path / "info.json", entries))
    folder = tmp_path / "samples"
    folder.mkdir()
    for sample in range(5):
        write(folder / unicodedata.normalize("NFD", f"a façade. Dots-{sample}.mp4"), clip(sample))
    assert score(folder, PIXELS[1:], suite, {})["lavie_blend"]["n"] == 5


def test_clips_that_no_filter_has_seen_are_told(samples, suite, tmp_path):
    for sample in range(6):
        write(tmp_path / f"In a still frame, a sign-{sample}.mp4", clip(sample))
    result = score(tmp_path, PIXELS[:1], suite, {})["temporal_flickering"]
    assert result["n"] == 5 and any("unfiltered" in note for note in result["notes"])
    assert not any("unfiltered" in n for n in score(samples, PIXELS[:1], suite, {})["temporal_flickering"]["notes"])


def test_a_frozen_clip_scores_one_and_its_motion_is_zero(tmp_path):
    write(tmp_path / "frozen.mp4", np.repeat(clip(0)[:1], 5, axis=0))
    found = score(tmp_path, (*PIXELS, "subject_consistency"), None, {"subject_consistency": Colours()})
    for result in found.values():
        assert result["value"] == pytest.approx(1)
        assert set(result["motion"].values()) == {0}


def test_prompts_of_other_dimensions_alone_are_refused(samples, tmp_path):
    suite = read_suite(write_suite(tmp_path / "info.json", ENTRIES[2:3]))
    with pytest.raises(DataError, match="none of them is of temporal_flickering"):
        score(samples, PIXELS[:1], suite, {})


def test_results_are_read_back_in_vbenchs_layout(samples, suite, tmp_path):
    found = score(samples, PIXELS, suite, {})
    layout = vbench_layout(found, samples)
    (tmp_path / "r.json").write_text(json.dumps(layout))
    scores, other = read_scores([tmp_path / "r.json"])
    assert scores == {"temporal_flickering": found["temporal_flickering"]["value"]}
    assert other[0] == "lavie_blend" and "lavie_motion_displacement" in other
    value, rows = layout["temporal_flickering"]
    assert np.mean([row["video_results"] for row in rows]) == pytest.approx(value)
    assert rows[0]["video_path"] == str(samples / "In a still frame, a sign-0.mp4")
    assert len(layout["lavie_motion_difference"][1]) == 10


def test_results_of_two_runs_are_compared_clip_by_clip(samples, suite, tmp_path):
    for sample in range(5):
        frames = clip([0, sample], 4 + sample)
        write(tmp_path / f"In a still frame, a sign-{sample}.mp4", (frames // 2).astype(np.uint8))
    a, b = (score(folder, PIXELS[:1], suite, {})["temporal_flickering"] for folder in (samples, tmp_path))
    found = compare(a, b)
    assert found["paired_by"] == "clips" and found["pairs"] == 5 and found["verdict"] == "b is higher"


def _scored(folder):
    found = score(folder, PIXELS, None, {})
    return {name: (result["scores"], result["protocol_hash"], result["data"]["hash"]) for name, result in found.items()}


@pytest.mark.slow
def test_ranks_that_share_the_clips_find_the_same(samples):
    assert run_distributed(_scored, 2, samples) == [_scored(samples)] * 2
