"""Recall and precision of splitters on films whose cuts are known exactly, with dissolves and fades between them."""

import io
from itertools import pairwise

import numpy as np
import pytest

from lavie.curation.cut.film import small_frames
from lavie.curation.cut.splitters.choice import find_splitter
from lavie.curation.scan.film import scan_frames
from lavie.testing import SHARED
from tests.curation.cut.films import film
from tests.curation.cut.labels import ONE_SHOT, TEARS
from tests.curation.cut.montage import Montage, compare, montage, rendered
from tests.markers import requires_shared

pytest.importorskip("cv2")
CLIPS = SHARED / "assets/videos"
SIZE = 192, 108


def differences(truth: Montage) -> np.ndarray:
    """Return what the scan measures of the film, encoded as films are."""
    data = film(truth.frames, crf="20", preset="veryfast")
    *parts, _ = scan_frames(io.BytesIO(data))
    return np.concatenate(parts[::2])[:, 0]


def real_shots() -> list[np.ndarray]:
    """Return parts of the shots of real films, of 20 to 70 frames, shuffled."""
    rng = np.random.default_rng(0)
    shots = []
    for name in ("tears_of_steel.webm", *ONE_SHOT):
        frames = np.concatenate(list(small_frames(io.BytesIO((CLIPS / name).read_bytes()), *SIZE)))
        bounds = [0, *TEARS, len(frames)] if name.startswith("tears") else [0, len(frames)]
        for start, end in pairwise(bounds):
            while end - start >= 20:
                length = min(int(rng.integers(20, 71)), end - start)
                shots.append(frames[start : start + length])
                start += length + 40  # so that two parts of one shot differ
    return [shots[i] for i in rng.permutation(len(shots))]


def check(truth: Montage) -> None:
    diff = differences(truth)
    assert len(diff) == len(truth.frames)
    score = compare(truth, find_splitter("sharp").transitions({"diff": diff}, None))
    assert score.recall >= 0.98 and score.precision >= 0.98, score
    score = compare(truth, find_splitter("content:27").transitions({"diff": diff}, None))
    assert score.recall >= 0.9, score


def test_rendered_films():
    truth = montage(rendered(40))
    assert len(truth.hard) >= 20 and len(truth.soft) >= 10
    check(truth)


@requires_shared
@pytest.mark.slow
def test_real_shots_shuffled():
    truth = montage(real_shots())
    assert len(truth.hard) >= 25 and len(truth.soft) >= 10
    check(truth)
