"""Hostile and broken data costs its own sample and nothing else; see tests/data/prepare/fuzz.py for what is tried."""

import pytest

from tests.data.prepare.fuzz import ALL, Field

CASES = 300


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    field = Field(tmp_path_factory.mktemp("parent") / "field")
    yield field
    field.close()


def test_there_are_classes_enough_and_each_is_tried():
    assert 25 <= len(set(ALL)) == len(ALL) <= CASES


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_each_case_costs_its_own_sample_and_nothing_else(field, part):
    size = CASES // 6
    outcomes = [field.run(number) for number in range(part * size, (part + 1) * size)]
    assert [(n, o.name, o.faults) for n, o in enumerate(outcomes, part * size) if o.faults] == []
