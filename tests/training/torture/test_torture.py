"""Checkpoints under real faults, in small numbers: `make torture` tries the same in large ones."""

import json
import shutil
from collections import Counter

import pytest

from lavie.testing import run_distributed
from tests.doc_pages import ROOT
from tests.training.torture import calls, flips, kills, power
from tests.training.torture.report import table

__all__ = ["run_distributed"]  # conftest starts the ranks' server for modules that have it

pytestmark = pytest.mark.slow
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")


def bad(outcomes):
    """Return the outcomes that are not good, of which there must be some at all."""
    outcomes = list(outcomes)
    assert outcomes
    return [outcome for outcome in outcomes if not outcome.good]


@needs_strace
def test_a_save_that_is_killed_or_fails_at_any_call_loses_nothing(tmp_path):
    """Each call meets one of the faults in turn, and is killed where an older checkpoint goes."""
    faults = (calls.KILL, "ENOSPC", "EIO+", "EDQUOT")
    with calls.Bench("ours", tmp_path / "bench") as bench:
        for scenario in calls.SCENARIOS:
            assert bad(calls.every_call(bench, scenario, faults, stride=len(faults))) == []
        assert bad(calls.every_call(bench, calls.SCENARIOS[1], (calls.KILL,))) == []
        assert bad(calls.short_writes(bench, calls.SCENARIOS[1])) == []


@needs_strace
def test_the_faults_are_real_for_they_tear_the_saves_of_others(tmp_path):
    with calls.Bench("stock", tmp_path / "bench") as bench:
        assert bad(calls.every_call(bench, calls.SCENARIOS[2], (calls.KILL,)))
    results = Counter(flip.result for flip in flips.stock(tmp_path / "flips", 40, seed=0))
    assert results["other values loaded without a word"]


def test_every_flipped_bit_is_named_and_the_older_checkpoint_taken(rendered, tmp_path):
    config = flips.checkpoints_of_a_run(rendered, tmp_path)
    assert bad(flips.ours(config, count=200, seed=0)) == []


def test_the_page_shows_the_counts():
    content = json.loads((ROOT / "docs/reliability.json").read_text())
    assert table(content) in (ROOT / "docs/reliability.md").read_text()
    assert [row for row in content["rows"] if row["subject"] == "ours" and not row["good"]] == []


@pytest.mark.skipif(power.possible() is not None, reason=str(power.possible()))
def test_a_power_cut_loses_nothing_that_was_told_as_saved(tmp_path):
    assert bad(power.cuts("ours", tmp_path / "power", count=5, seed=0)) == []


def test_a_run_that_is_killed_ends_as_if_nothing_had_been(rendered, tmp_path):
    calm = kills.undisturbed(rendered, tmp_path / "calm", "base", 2)
    done = kills.sequence(calm, tmp_path / "kills", kills=2, seed=1)
    assert done.moments
    assert done.differs == ""
