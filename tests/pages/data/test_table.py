"""Samples are found by words, kind, ranges and scores, and sorted."""

import numpy as np
import pytest

from lavie.config.load import validate
from lavie.data.check.scores import read_scores
from lavie.data.prepare.indexing import make_indices
from lavie.data.shards.index import load_index
from lavie.errors import ConfigError
from lavie.pages.data.table import Query, SampleTable
from tests.data.datasets import png
from tests.data.tars import make_tar


@pytest.fixture(scope="module")
def table(demo):
    return SampleTable(load_index([str(demo / "train")]))


def found(table, out=frozenset(), **wanted):
    return [table.index[int(number)] for number in table.find(Query(**wanted), out)]


def test_without_a_wish_all_samples_come_in_the_order_of_the_index(table):
    assert [sample.key for sample in found(table)] == list(table.index.sample_keys()) and table.count == 34


def test_words_are_looked_for_in_captions_and_keys(table):
    wanted = [sample for sample in table.index if "red" in sample.caption and "left" not in sample.caption]
    assert found(table, words="RED  -left") == wanted and 0 < len(wanted) < table.count
    [only] = found(table, words=table.index[3].key.upper())
    assert only == table.index[3]
    assert found(table, words="nowhere") == []


def test_kinds_ranges_and_marks_join(table):
    assert {sample.kind for sample in found(table, kind="image")} == {"image"}
    assert len(found(table, kind="video")) == 24
    sizes = sorted(table.columns["kilobytes"])
    low, high = sizes[5], sizes[20]
    some = found(table, low={"kilobytes": low}, high={"kilobytes": high})
    assert some == [sample for sample in table.index if low <= sample.size / 1000 <= high] and len(some) < 34
    # Images have no frame rate, so no range of it holds them.
    assert {sample.kind for sample in found(table, low={"fps": 0})} == {"video"}
    marked = frozenset(sample.key for sample in table.index[20:30])
    assert {sample.key for sample in found(table, marked, marked=True)} == marked
    assert len(found(table, marked, marked=True, kind="video")) == 4


@pytest.mark.parametrize("descending", (False, True))
def test_samples_are_sorted_and_those_without_a_value_come_last(table, descending):
    samples = found(table, sort="fps", descending=descending)
    assert [sample.kind for sample in samples] == ["video"] * 24 + ["image"] * 10
    sizes = [sample.size for sample in found(table, sort="kilobytes", descending=descending)]
    assert sizes == sorted(sizes, reverse=descending)


def test_what_is_no_query_is_named(table):
    with pytest.raises(ConfigError, match="there is no column beauty: wanted one of side, frames"):
        found(table, sort="beauty")
    with pytest.raises(ConfigError, match="kind"):
        validate(Query, {"kind": "sound"}, "the query")


def test_scores_of_the_shards_are_columns(tmp_path):
    media = png(np.zeros((64, 64, 3), np.uint8))
    members = []
    for number in range(4):
        members += [(f"{number}.png", media), (f"{number}.txt", b"a fox")]
    members += [
        ("0.json", b'{"scores": {"aesthetic": 5.5, "names": "x"}, "width": 3, "good": true}'),
        ("1.json", b'{"scores": {"aesthetic": 4}}'),
        ("2.json", b"{broken"),
    ]
    make_tar(tmp_path / "00000.tar", members)
    make_indices([tmp_path])
    index = load_index([str(tmp_path)])
    table = SampleTable(index, read_scores(index.shards))
    assert table.columns["aesthetic"][:2].tolist() == [5.5, 4] and np.isnan(table.columns["aesthetic"][2:]).all()
    assert [sample.key for sample in found(table, low={"aesthetic": 4.5})] == ["0"]
    assert table.told(1)["columns"]["aesthetic"] == 4 and "aesthetic" not in table.told(2)["columns"]
    assert "names" not in table.columns and "good" not in table.columns
