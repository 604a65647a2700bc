"""Values of clips, against those of frames."""

import io

import numpy as np
import pytest

from lavie.config.curate_score import MotionConfig
from lavie.curation.scan.arrays import NAMES
from lavie.curation.scan.film import scan_frames
from lavie.curation.score.motion import clip_values, work
from lavie.testing import SHARED
from tests.curation.made_cut import made_units, make_cut, moving
from tests.markers import requires_shared


def test_values_of_a_clip_are_those_of_its_own_frames_and_steps():
    """The step into a clip's first frame is from another clip, and counts for neither."""
    arrays = {name: np.array([9, 9, 0, 2, 4, 9], np.float16) for name in NAMES}
    arrays["step"] = np.array([9, 9, 9, 0.25, 0.5, 0], np.float16)
    arrays["diff"][2] = arrays["flow"][2] = arrays["flow_p95"][2] = 99  # the cut
    assert clip_values(arrays, 2, 5) == {
        "luma": 2,
        "dark": 2,
        "bright": 2,
        "diff": 3,
        "frozen": 0.5,
        "sharp": 2,
        "flow_mean": 3,
        "flow_p95": 3,
    }
    steps = {name for name, value in clip_values(arrays, 2, 3).items() if value is None}
    assert steps == {"diff", "frozen", "flow_mean", "flow_p95"}


def test_stills_and_moving_clips_are_told_apart(tmp_path):
    pytest.importorskip("cv2")
    still, fast = moving(0, 8, step=0), moving(1, 8, step=3)
    out = make_cut(tmp_path, {"a.mp4": [still, fast], "b.mp4": [still // 4]}, measured=True)
    [unit] = made_units(out)
    rows = work(unit, MotionConfig()).columns
    assert rows["clip"] == unit.read("cut")["clip"].to_pylist()
    assert rows["frozen"] == [1, 0, 1]
    assert rows["flow_mean"][0] == 0 and rows["flow_mean"][1] == pytest.approx(3 / np.hypot(128, 72), rel=0.2)
    grey = [(clip @ [0.299, 0.587, 0.114]).mean() for clip in (still, fast, still // 4)]
    np.testing.assert_allclose(rows["luma"], grey, atol=1)
    assert rows["diff"][0] < 0.1 < 1 < rows["diff"][1]


@requires_shared
@pytest.mark.slow
def test_the_frozen_clips_of_a_real_film_are_told():
    """Two of its three clips are titles that stand still; of the whole film 0.67 of the steps are none."""
    pytest.importorskip("cv2")
    film = io.BytesIO((SHARED / "assets/videos/nasa_13013.mp4").read_bytes())
    parts = [part for part in scan_frames(film) if not isinstance(part, dict) and part.dtype == np.float16]
    arrays = dict(zip(NAMES, np.concatenate(parts).T, strict=True))
    whole, *clips = (clip_values(arrays, *span) for span in ((0, 325), (0, 127), (151, 202), (202, 325)))
    assert whole["frozen"] == pytest.approx(0.67, abs=0.01) and whole["luma"] == pytest.approx(26, abs=2)
    assert [clip["frozen"] > 0.5 for clip in clips] == [True, True, False]  # two titles, and what they are about
