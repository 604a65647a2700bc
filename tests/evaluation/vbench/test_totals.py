import json

import pytest

from lavie.errors import DataError
from lavie.evaluation.vbench.dimensions import DIMENSIONS
from lavie.evaluation.vbench.totals import read_scores, totals

TABLE_5 = {
    "ModelScope": (
        "89.87 95.29 98.28 95.79 66.39 52.06 58.57 82.25 38.98 92.40 81.72 33.68 39.26 23.39 25.37 25.67",
        (78.06, 66.54, 75.75),
    ),
    "VideoCrafter": (
        "86.24 92.88 97.60 91.79 89.72 44.41 57.22 87.34 25.93 93.00 78.84 36.74 43.36 21.57 25.42 25.21",
        (74.92, 65.46, 73.02),
    ),
    "CogVideo": (
        "92.19 95.42 97.64 96.47 42.22 38.18 41.03 73.40 18.11 78.20 79.57 18.24 28.24 22.01 7.80 7.70",
        None,
    ),
    "AnimateDiff": (
        "95.3 97.68 98.75 97.76 40.83 67.16 70.1 90.9 36.88 92.6 87.47 34.6 50.19 22.42 26.03 27.04",
        None,
    ),
    "VideoCrafter2": (
        "96.85 98.22 98.41 97.73 42.5 63.13 67.22 92.55 40.66 95.0 92.92 35.86 55.29 25.13 25.84 28.23",
        None,
    ),
    "Latte": (
        "91.61 95.98 97.94 96.45 68.33 63.35 66.69 88.01 35.44 90.0 85.73 41.43 36.18 24.03 24.80 26.80",
        None,
    ),
    "LaVie (pretrained)": (
        "91.41 97.47 98.30 96.38 49.72 54.94 61.90 91.82 33.32 96.80 86.39 34.09 52.69 23.56 25.93 26.41",
        (78.78, 70.31, 77.08),
    ),
    "LaVie (QT)": (
        "94.13 96.32 97.81 96.12 60.00 62.18 66.04 94.18 44.66 97.40 87.65 45.63 54.68 24.33 25.12 26.98",
        (81.23, 73.81, 79.75),
    ),
}
"""Table 5 of the paper, in percent, and quality, semantic and total where they are published or were computed apart."""
NAMES = """
Subject Consistency, Background Consistency, Temporal Flickering, Motion Smoothness, Dynamic Degree, Aesthetic Quality,
Imaging Quality, Object Class, Multiple Objects, Human Action, Color, Spatial Relationship, Scene, Appearance Style,
Temporal Style, Overall Consistency
"""
COLUMNS = [name.strip() for name in NAMES.split(",")]
"""The columns of Table 5."""


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def by_hand(row):
    """The totals of a row in percent, term by term."""
    subject, background, flicker, smooth, dynamic, aesthetic, imaging, *semantic = (value / 100 for value in row)
    objects, multiple, action, color, spatial, scene, appearance, temporal, overall = semantic
    quality = (
        (subject - 0.1462) / 0.8538
        + (background - 0.2615) / 0.7385
        + (flicker - 0.6293) / 0.3707
        + (smooth - 0.706) / 0.2915
        + dynamic / 2
        + aesthetic
        + imaging
    ) / 6.5
    meaning = (
        objects
        + multiple
        + action
        + color
        + spatial
        + scene / 0.8222
        + (appearance - 0.0009) / 0.2846
        + temporal / 0.364
        + overall / 0.364
    ) / 9
    return [100 * quality, 100 * meaning, 100 * (4 * quality + meaning) / 5]


@pytest.mark.parametrize("model", TABLE_5)
@pytest.mark.parametrize("unit", ("fractions of VBench", "percent", "texts"))
def test_each_row_of_the_papers_table_gives_its_totals(model, unit, tmp_path):
    text, known = TABLE_5[model]
    row = [float(value) for value in text.split()]
    content = {
        "fractions of VBench": lambda: {
            name.lower().replace(" ", "_"): [value / 100, [{"video_path": "a-0.mp4", "video_results": 0.5}]]
            for name, value in zip(COLUMNS, row, strict=True)
        },
        "percent": lambda: dict(zip(COLUMNS, row, strict=True)),
        "texts": lambda: {name: f"{value}%" for name, value in zip(COLUMNS, row, strict=True)},
    }[unit]()
    scores, other = read_scores([written(tmp_path / "results.json", content)])
    found = totals(scores).to_json()
    values = [found["quality"], found["semantic"], found["total"]]
    assert values == pytest.approx(by_hand(row), abs=1e-9)
    if known:
        assert values == pytest.approx(known, abs=0.01)
    assert found["missing"] == [] == other


def test_what_is_missing_counts_as_a_score_of_zero_before_it_is_normalised(tmp_path):
    a = written(tmp_path / "a.json", {"temporal_flickering": [0.97, []], "lavie_blend": [0.9, []]})
    b = written(tmp_path / "b.json", {"scene": [0.4111, []], "temporal_flickering": [0.97, []]})
    scores, other = read_scores([a, b])
    found = totals(scores)
    assert other == ["lavie_blend"] and scores == {"temporal_flickering": 0.97, "scene": 0.4111}
    assert found.missing == [name for name in DIMENSIONS if name not in scores]
    assert found.normalised["scene"] == pytest.approx(0.5)
    zeros = -0.1462 / 0.8538 - 0.2615 / 0.7385 - 0.706 / 0.2915
    assert found.quality == pytest.approx(((0.97 - 0.6293) / 0.3707 + zeros) / 6.5)
    assert found.semantic == pytest.approx((0.5 - 0.0009 / 0.2846) / 9)
    told = found.to_json()
    assert told["scores"] == {"temporal_flickering": 97.0, "scene": pytest.approx(41.11)}
    assert told["normalised"]["scene"] == pytest.approx(50) and told["missing"] == found.missing


@pytest.mark.parametrize(
    "content, words",
    (
        ([0.9], "wanted"),
        ({"metric": "fvd"}, "no dimension of VBench"),
        ({"scene": [0.5, []], "color": 85.0}, "fractions or percentages"),
        ({"imaging_quality": 323.99}, "0 to 100 in percent"),
        ({"scene": "104%"}, "0 to 100 in percent"),
        ({"scene": [-0.1, []]}, "scene is -0.1"),
        ({"scene": True}, "scene is True"),
        ({"scene": []}, r"scene is \[\]"),
        ({"scene": "half"}, "scene is half"),
        ({"scene": "nan"}, "scene is nan"),
        ({"scene": float("nan")}, "NaN is no number"),
        ({"scene": 10**400}, "too large a number"),
        ({"scene": 0.5, "Scene": 0.5}, "scene stands there twice, in two spellings"),
    ),
)
def test_what_are_no_scores_is_refused(content, words, tmp_path):
    with pytest.raises(DataError, match=words):
        read_scores([written(tmp_path / "a.json", content)])


def test_files_that_disagree_are_refused(tmp_path):
    a, b = written(tmp_path / "a.json", {"scene": 0.5}), written(tmp_path / "b.json", {"Scene": "51%"})
    with pytest.raises(DataError, match=r"scene is 0.5 in .*a.json and 0.51 in .*b.json"):
        read_scores([a, b])
    with pytest.raises(DataError, match="cannot be read"):
        read_scores([tmp_path / "c.json"])
