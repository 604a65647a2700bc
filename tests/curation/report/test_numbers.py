"""The numbers of a report, on clips whose spread is known."""

import numpy as np
import pytest

from lavie.config.curate_select import Rule
from lavie.curation.report.nearest import nearest, thresholds
from lavie.curation.report.numbers import SIDE_NAMES, refused, statistics_of
from lavie.errors import DataError


def table(**columns):
    """Return a selection of five clips, with other columns in place of the usual ones."""
    import pyarrow as pa

    usual = {
        "duration": [0.4, 0.5, 3.2, 19.99, 400.0],
        "category": ["cats", "cats", None, "dogs", "cats"],
        "width": [1280, 640, 4096, 720, 852],
        "height": [720, 479, 2160, 1280, 480],
        "words": [3, None, 12, 30, 31],
        "aesthetic_mean": [3.99, 4.0, 6.0, 6.01, None],
    }
    return pa.table(usual | columns)


def test_every_clip_is_counted_in_its_bin():
    found = statistics_of(table())
    assert (found.clips, found.captioned) == (5, 4)
    assert found.hours == pytest.approx(424.09 / 3600, abs=1e-6)
    assert found.categories == {"cats": 3, "": 1, "dogs": 1}
    assert {i: n for i, n in enumerate(found.durations) if n} == {0: 1, 1: 1, 6: 1, 39: 1, 40: 1}
    assert len(found.durations) == 41
    assert {i: n for i, n in enumerate(found.words) if n} == {3: 1, 12: 1, 30: 1, 31: 1}
    assert found.aesthetic == (1, 2, 1)
    assert found.aesthetic_shares == (0.25, 0.5, 0.25)
    assert dict(zip(SIDE_NAMES, found.sides, strict=True)) == {
        "< 480": 1,
        "480": 1,
        "720": 2,
        "1080": 0,
        "1440": 0,
        ">= 2160": 1,
    }


def test_columns_that_nobody_measured_are_no_zeros():
    found = statistics_of(table().drop_columns(["words", "aesthetic_mean"]))
    assert found.captioned == 0 and not any(found.words)
    assert found.aesthetic_shares is None


def test_the_nearest_of_both_sides():
    values = np.array([0.1, 0.5, np.nan, 0.3, 0.29, 0.31, 0.3])
    assert nearest(values, 0.3, "min", 2) == ([4, 0], [3, 6])
    assert nearest(values, 0.3, "max", 9) == ([5, 1], [3, 6, 4, 0])


def test_each_bound_of_a_rule_is_a_threshold():
    rules = [Rule(column="luma", min=16, max=235), Rule(column="overlay", equals=False), Rule(column="frozen", max=0.5)]
    assert [(rule.column, *rest) for rule, *rest in thresholds(rules)] == [
        ("luma", "min", 16.0),
        ("luma", "max", 235.0),
        ("frozen", "max", 0.5),
    ]


def test_a_damaged_list_of_what_was_refused_is_named(tmp_path):
    path = tmp_path / "rejected/scan/000000.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"name": "a.mp4", "reason": "cannot be read", "detail": "no header"}\n{"name": "b.mp4"}\n')
    with pytest.raises(DataError, match=r"000000\.jsonl: cannot be read"):
        refused(tmp_path)
    path.write_text('{"name": "a.mp4", "reason": "cannot be read", "detail": "no header"}\n')
    assert refused(tmp_path) == {"scan": {"cannot be read": ["a.mp4: no header"]}}
