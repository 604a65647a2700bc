"""What the tests of choosing clips share: a curation made by hand, and a way to call a command."""

import pytest

from tests.cli.fixtures import call
from tests.curation.select import columns

__all__ = ["call"]


@pytest.fixture(autouse=True)
def stages():
    """Let the stages be those of the hand-made columns."""
    with columns.in_place():
        yield


@pytest.fixture
def out(tmp_path):
    """Two units, of which every stage is done."""
    out = columns.list_units(tmp_path, 2)
    for unit, rows in enumerate((columns.FIRST, columns.SECOND)):
        for stage in columns.ALL:
            columns.write(out, unit, stage, rows)
    return out
