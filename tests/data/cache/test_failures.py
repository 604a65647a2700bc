"""Entries that could not be made are written down by each rank, and damage to that list is an error."""

import json

import pytest

from lavie.data.cache.failures import read_failures, write_failures
from lavie.errors import DataError

pytestmark = pytest.mark.usefixtures("reversed_folders")

LINES = [{"entry": f"{i:032x}", "key": f"näme {i}", "cut": 0, "reason": "no such codec"} for i in range(3)]


def test_each_rank_replaces_its_own_list(tmp_path):
    write_failures(tmp_path, 0, [])  # there was none
    assert read_failures(tmp_path) == [] and list(tmp_path.iterdir()) == []
    write_failures(tmp_path, 1, LINES[1:])
    write_failures(tmp_path, 0, LINES[:1])
    assert read_failures(tmp_path) == LINES
    assert '"key": "näme 1"' in (tmp_path / "failed-rank1.jsonl").read_text(encoding="utf-8")  # for people, too
    write_failures(tmp_path, 1, [])
    assert read_failures(tmp_path) == LINES[:1]
    assert [path.name for path in tmp_path.iterdir()] == ["failed-rank0.jsonl"]


@pytest.mark.parametrize(
    "line", ("{", "3", json.dumps(LINES[0] | {"entry": 3}), json.dumps(LINES[0] | {"reason": None}), '{"entry": "00"}')
)
def test_damage_is_an_error(tmp_path, line):
    (tmp_path / "failed-rank0.jsonl").write_text(json.dumps(LINES[0]) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"failed-rank0\.jsonl: cannot be read"):
        read_failures(tmp_path)
