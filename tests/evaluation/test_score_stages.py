"""`lavie score` on the later stages: each beside what does without a network, on held-out clips."""

import json

import numpy as np
import pytest
from PIL import Image

from lavie.cli.score import score
from lavie.config.load import dump_yaml, load_config
from lavie.data.media.decode import decode_frames
from lavie.data.prepare.synthetic import demo_set
from lavie.data.shards.index import load_index
from lavie.data.shards.member import read_member
from lavie.errors import ConfigError
from lavie.evaluation import score_stages
from lavie.evaluation.psnr import blend, psnr, repeat


@pytest.fixture
def run(cascade_folder, tmp_path):
    """A function: stage, whether there is validation data -> the folder of a run with a tiny random network."""
    demo_set(tmp_path / "data", clips=2, images=2, size=24, frames=9)

    def make(stage, validation=True):
        source, folder = cascade_folder / stage / "checkpoint-3", tmp_path / stage
        config = load_config(source / "config.yaml")
        shards = (str(tmp_path / "data/validation"),) if validation else ()
        data = config.data.model_copy(update={"validation": shards, "fps": None, "frame_stride": 1})
        folder.mkdir()
        (folder / "config.yaml").write_text(dump_yaml(config.model_copy(update={"data": data})))
        (folder / "checkpoint.json").write_text("{}")
        (folder / "unet").symlink_to(source / "unet")
        return folder

    return make


def test_interpolation_beside_repeated_and_blended_key_frames(run, tmp_path, monkeypatch):
    monkeypatch.setattr(score_stages, "PAIRS", 6)  # no multiple of the clips sampled at once
    score(tmp_path / "out", run("interpolation"), num=1, seed=0)
    found = json.loads((tmp_path / "out/score-interpolation.json").read_text())
    assert found["cuts"] == 6
    assert found["clips"] == 6
    assert found["notes"] == []
    assert set(found["psnr_db"]) == {"network", "key frames repeated", "key frames blended"}
    assert found["psnr_db"]["network"] < found["psnr_db"]["key frames blended"]  # random weights
    with Image.open(tmp_path / "out/interpolation.png") as picture:
        sheet = np.asarray(picture)
    # All nine frames of both clips, the three key frames in a line of their own colour, in each of four rows.
    framed = (sheet == (0xE0, 0x8A, 0x1E)).all(-1)
    ends = np.flatnonzero(np.diff(framed.any(1).astype(int)) == 1)
    assert len(ends) == 4
    assert np.count_nonzero(np.diff(framed[ends[0] + 20].astype(int)) == 1) == 2 * 3 * 2


def test_few_held_out_clips_are_told(run, tmp_path, monkeypatch, capsys):
    """A second cut of one clip is no second clip."""
    folder = run("vsr")
    clips = len(load_index((str(tmp_path / "data/validation"),)).videos)
    monkeypatch.setattr(score_stages, "PAIRS", clips + 2)
    score(tmp_path / "out", folder, num=1, seed=0)
    found = json.loads((tmp_path / "out/score-vsr.json").read_text())
    assert (found["clips"], found["cuts"]) == (clips, clips + 2)
    printed = capsys.readouterr()
    line = f"vsr: PSNR of {clips + 2} cuts of {clips} held-out clips, 9 frames of 16 x 24 each: network"
    assert printed.out.strip().startswith(line)
    assert f"note: data.validation gives {clips} different clips, of which {clips + 2} cuts are compared" in printed.err


def test_super_resolution_beside_bicubic(run, tmp_path, monkeypatch):
    monkeypatch.setattr(score_stages, "PAIRS", 2)
    score(tmp_path / "out", run("vsr"), num=1, seed=0)
    found = json.loads((tmp_path / "out/score-vsr.json").read_text())
    assert (found["clips"], found["cuts"]) == (2, 2)
    assert 10 < found["psnr_db"]["bicubic"] < 40
    assert found["psnr_db"]["network"] < found["psnr_db"]["bicubic"]


def test_no_held_out_clips(run, tmp_path):
    with pytest.raises(ConfigError, match=r"data.validation is empty"):
        score(tmp_path / "out", run("interpolation", validation=False), num=1, seed=0)


def test_blending_beats_repeating_on_rendered_motion(tmp_path):
    demo_set(tmp_path, clips=2, images=2, size=24, frames=9)
    clips = [decode_frames(read_member(s), range(9)) for s in load_index((str(tmp_path / "validation"),)).videos[:4]]
    repeated, blended = (np.mean([psnr(f(c[::4], 4), c) for c in clips]) for f in (repeat, blend))
    assert repeated < blended < 40


@pytest.mark.parametrize("frames, shown", ((5, 5), (9, 9), (13, 9)))
def test_long_clips_show_their_first_two_intervals(monkeypatch, tmp_path, frames, shown):
    config = load_config("configs/smoke/interpolation.yaml")
    assert config.keyframe_interval == 4
    given = {}
    monkeypatch.setattr(score_stages, "write_sheet", lambda png, panels, **how: given.update(how, panels=panels))
    clip = np.zeros((frames, 16, 16, 3), np.uint8)
    case = score_stages.Rivals("a fox", clip, clip + 1, {"blended": clip + 2}, "k")
    decibels = {"network": 20.0, "blended": 30.0}
    score = score_stages.StageScore("interpolation", 1, 1, clip.shape[:3], decibels)
    score_stages._draw_sheet(tmp_path / "x.png", config, [case], [decibels], score)
    truth, network, blended = given["panels"]
    told = f", frames 1 to {shown} of {frames}" if shown < frames else ""
    assert truth.caption == f"a fox: as it was, key frames framed{told}"
    assert [len(panel.frames) for panel in given["panels"]] == [shown] * 3 and given["columns"] == shown
    assert list(truth.marked) == list(range(0, shown, 4))
    assert (truth.wrong, network.wrong, blended.wrong) == (False, True, False)
