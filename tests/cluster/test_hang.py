"""Who holds up a run, and why, from what its ranks are at: the table by which the exit code is chosen."""

import signal

import pytest

from lavie.cluster.hang import Cause, Missing, Verdict, judge
from lavie.cluster.sighting import Sighting


def at(rank: int, section: str = "step", waits: str = "all_gather", **more) -> Sighting:
    values = {"step": 7, "seconds": 31.2, "module": "down.0", "at": "unet.py:8 forward", "stack": (f"frame {rank}",)}
    return Sighting(rank, f"n{rank}", 100 + rank, section, waits=waits, **values | more)


def gone(rank: int, state: str) -> Missing:
    return Missing(rank, at(rank), state)


@pytest.mark.parametrize(
    "present, missing, cause, culprits",
    (
        # Ranks that do not answer come before all else.
        ([at(0), at(1, "data", "")], [gone(2, "gone"), gone(3, "gone")], Cause.LOST, (2, 3)),
        ([at(0), at(1)], [gone(3, "gone"), gone(2, "stopped")], Cause.SILENT, (2, 3)),
        ([at(0)], [Missing(1, None, "")], Cause.SILENT, (1,)),
        # Those that wait for nobody hold up those that do.
        ([at(0), at(1, "data", ""), at(2)], [], Cause.STARVED, (1,)),
        ([at(0, "save"), at(1, "save", ""), at(2, "save")], [], Cause.STORAGE, (1,)),
        ([at(0, "between", ""), at(1)], [], Cause.STORAGE, (0,)),
        ([at(0), at(1), at(2, waits="")], [], Cause.STUCK, (2,)),
        ([at(0, waits=""), at(1, "data", "")], [], Cause.STARVED, (1,)),  # a GPU's wait does not show
        ([at(0, "validation", ""), at(1, "validation", "")], [], Cause.STUCK, (0, 1)),
        # All wait for one another.
        ([at(0), at(1), at(2, module="up.0")], [], Cause.DIVERGED, (2,)),
        ([at(0), at(1, waits="barrier")], [], Cause.DIVERGED, (0, 1)),
        ([at(0), at(1, "save"), at(2, "save")], [], Cause.DIVERGED, (0,)),
        ([at(1), at(0)], [], Cause.NETWORK, (0, 1)),
    ),
)
def test_who_holds_up_the_others(present, missing, cause, culprits):
    verdict = judge(present, missing)
    assert (verdict.cause, verdict.culprits) == (cause, culprits)
    assert verdict.missing == tuple(sorted(m.rank for m in missing))
    assert verdict.text.endswith(f"exit code {cause:d}")
    read = Verdict.loads(verdict.dumps().encode())
    assert read == Verdict(cause, culprits, "", verdict.missing, verdict.stopped)


def test_the_text_names_rank_node_section_module_and_stack():
    lines = judge([at(0), at(1), at(2, "data", "", module="")], []).text.splitlines()
    assert lines == [
        "the run hangs: rank 2 waits for data: its loader starves (a slow disk? too few data.num_workers?)",
        "- rank 2 (n2, process 102): in section data of step 7 for 31 s at unet.py:8 forward",
        "- rank 0 (n0, process 100): in section step of step 7 for 31 s in module down.0 at unet.py:8 forward, waits "
        "for the others in all_gather; so rank 1",
        "stack of rank 2 (n2, process 102):",
        "frame 2",
        "stack of rank 0 (n0, process 100):",
        "frame 0",
        "every rank leaves with exit code 193",
    ]


def test_a_missing_rank_is_told_as_it_was_last_seen():
    verdict = judge([at(0)], [gone(1, "stopped"), Missing(2, None, "")])
    assert verdict.stopped == (("n1", 101),)
    assert "- rank 1 (n1, process 101), stopped, last seen in section step of step 7 for 31 s in module down.0\n" in (
        verdict.text
    )
    assert "- rank 2, which never said where it is\n" in verdict.text


def test_a_thousand_ranks_are_told_in_a_few_lines():
    text = judge([at(r) for r in range(999)] + [at(999, waits="barrier")]).text
    assert "- rank 999 (n999" in text and "; so ranks 1-998\n" in text
    assert len(text.splitlines()) == 8


def test_a_run_that_goes_on_has_no_verdict():
    assert Verdict.loads(b"null") is None


def test_the_codes_are_between_those_of_signals_and_of_errors_that_would_come_again():
    from lavie.training import stop

    assert all(128 + signal.SIGTERM < code < stop.FAILED for code in Cause) and stop.LOST == Cause.LOST
