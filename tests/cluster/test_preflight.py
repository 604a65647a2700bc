"""What makes the nodes of a run differ, and the ranks that do not come: each is found, and named with its node."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist
from typer.testing import CliRunner

from lavie.cli.doctor import app
from lavie.cluster import preflight
from lavie.cluster.preflight import Finding, Node, Report, examine
from lavie.cluster.rendezvous import meet
from lavie.errors import ClusterError, LostRankError
from lavie.launcher import Place
from lavie.testing import free_port
from lavie.training import stop
from lavie.training.stop import FAILED, LOST
from tests.cluster.places import ROOT, facts_of, place


def together(*ranks):
    """Run the ranks as threads; what each returned, or its ClusterError."""

    def guarded(rank):
        try:
            return rank()
        except ClusterError as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(guarded, ranks))


def exit_code(report) -> int:
    """The code with which a run leaves that finds this."""
    with pytest.raises(ClusterError) as raised:
        report.require_agreement()
    return stop.exit_code(raised.value)


def take_part(place: Place, mine: dict, delay: float = 0, timeout: float = 10, patience: float = 5, **options):
    time.sleep(delay)
    store, waited = meet(place, timeout, patience)
    return examine(store, place, mine | {"waited": waited}, timeout, patience, **options)


def test_equal_nodes_pass(rendered):
    port = free_port()
    a, b = place(0, port), place(1, port)
    one, two = together(lambda: take_part(a, facts_of(a, rendered)), lambda: take_part(b, facts_of(b, rendered)))
    assert one == two and one.findings == ()
    assert [node.name for node in one.nodes] == ["node0", "node1"]
    assert one.nodes[0].skew is None
    assert abs(one.nodes[1].skew) <= one.nodes[1].error < 1  # the same clock, and the bound holds


@pytest.mark.slow
def test_a_clock_that_is_wrong_and_a_node_that_is_late(rendered, monkeypatch):
    monkeypatch.setattr(preflight, "LATE", 1.0)
    port = free_port()
    a, b = place(0, port), place(1, port)
    facts = facts_of(a, rendered), facts_of(b, rendered)
    report, _ = together(
        lambda: take_part(a, facts[0]),
        lambda: take_part(b, facts[1], delay=2, clock=lambda: time.time() - 100),
    )
    late, skew = (finding.message for finding in report.findings)
    assert late.startswith("node1 (rank 1) started 2 s after the first node")
    assert skew.startswith("node1 (rank 1): its clock is 100.0 s behind that of node0")
    assert report.faults == []  # a run can start so
    assert report.nodes[1].skew == pytest.approx(-100, abs=0.5)


@pytest.mark.slow
def test_rank_0_itself_is_late(rendered, monkeypatch):
    monkeypatch.setattr(preflight, "LATE", 1.0)
    port = free_port()
    a, b = place(0, port), place(1, port)
    facts = facts_of(a, rendered), facts_of(b, rendered)
    report, _ = together(lambda: take_part(a, facts[0], delay=2), lambda: take_part(b, facts[1]))
    (finding,) = report.findings
    assert finding.message.startswith("node0 (rank 0) started 2 s after the first node")


@pytest.mark.slow
def test_who_is_waited_for_is_told(rendered, caplog):
    port = free_port()
    a, b = place(0, port), place(1, port)
    facts = facts_of(a, rendered), facts_of(b, rendered)
    one, two = together(lambda: take_part(a, facts[0], patience=0.5), lambda: take_part(b, facts[1], delay=2))
    assert one == two and one.faults == []  # it came, and all is well
    assert [record.message for record in caplog.records] == ["not there after 1 s: rank 1; there are node0"]


def test_what_differs_is_told_before_all_have_come(rendered):
    port = free_port()
    a, b = place(0, port, world_size=3), place(1, port, world_size=3)
    facts = facts_of(a, rendered), facts_of(b, rendered, "seed=7")
    began = time.monotonic()
    one, _ = together(
        lambda: take_part(a, facts[0], patience=0.5, timeout=60), lambda: take_part(b, facts[1], timeout=60)
    )
    assert time.monotonic() - began < 30
    missing, seed = one.faults
    assert re.match(r"rank 2 did not come within \d s", missing)
    assert seed.startswith("seed: 0 on node0 (rank 0); 7 on node1 (rank 1)")


def test_many_nodes(rendered):
    """64 nodes of two ranks; every leader's clock is asked in turn."""
    nodes, store = 64, dist.HashStore()
    places = [place(r, 1, world_size=2 * nodes, node=f"n{r // 2}", local_rank=r % 2) for r in range(2 * nodes)]
    mine = facts_of(places[0], rendered)
    facts = [mine | {"rank": p.rank, "node": p.node, "leads": p.local_rank == 0} for p in places]
    parts = zip(places, facts, strict=True)
    began = time.monotonic()
    reports = together(*(lambda part=part: examine(store, *part, timeout=60) for part in parts))
    assert time.monotonic() - began < 30
    assert reports[0].findings == () and all(report == reports[0] for report in reports)
    assert [node.first_rank for node in reports[0].nodes] == list(range(0, 2 * nodes, 2))
    assert all(abs(node.skew) <= node.error for node in reports[0].nodes[1:])


def test_differences_stop_every_rank(rendered):
    port = free_port()
    a, b = place(0, port), place(1, port)
    facts = facts_of(a, rendered), facts_of(b, rendered, "learning_rate=1.0e-3")
    one, two = together(lambda: take_part(a, facts[0]), lambda: take_part(b, facts[1]))
    assert one.faults == two.faults
    (fault,) = one.faults
    assert fault.startswith("learning_rate: 0.002 on node0 (rank 0); 0.001 on node1 (rank 1): start every rank with")
    assert exit_code(one) == FAILED


@pytest.mark.slow
def test_a_rank_that_does_not_come(rendered):
    port = free_port()
    a = place(0, port, world_size=4)
    b = place(2, port, world_size=4)
    facts = facts_of(a, rendered), facts_of(b, rendered)
    one, two = together(lambda: take_part(a, facts[0], timeout=3), lambda: take_part(b, facts[1], timeout=3))
    assert one == two
    assert re.match(r"ranks 1, 3 did not come within \d s; node0, node2 did\.", one.faults[0])
    assert exit_code(one) == LOST


@pytest.mark.slow
def test_a_rank_that_is_lost_while_the_clocks_are_compared(rendered):
    """The others are told which one, and soon."""
    port, size = free_port(), 3
    a, b, c = (place(rank, port, world_size=size) for rank in range(size))
    facts = [facts_of(p, rendered) for p in (a, b, c)]

    def dies():
        store, waited = meet(b, 60, 5)
        store.set("facts/1", json.dumps(facts[1] | {"waited": waited}))

    began = time.monotonic()
    one, _, three = together(
        lambda: take_part(a, facts[0], timeout=60, patience=2),
        dies,
        lambda: take_part(c, facts[2], timeout=60, patience=2),
    )
    assert one == three and one.faults == ["node1 (rank 1) came, then said no more: look at its output"]
    assert exit_code(one) == LOST
    assert one.nodes[2].skew is not None and time.monotonic() - began < 30


@pytest.mark.slow
def test_one_rank_twice(rendered):
    port = free_port()
    ranks = [place(rank, port, world_size=3, node=node) for rank, node in ((0, "node0"), (1, "node1"), (1, "node2"))]
    parts = [(p, facts_of(p, rendered)) for p in ranks]
    done = together(*(lambda part=part: take_part(*part, timeout=3) for part in parts))
    (error,) = [d for d in done if isinstance(d, ClusterError)]
    assert "is rank 1 too: two nodes have the same node rank" in str(error)
    assert {"node1", "node2"} <= set(str(error).replace(",", " ").split())


def test_the_doctor_of_one_rank_says_how_to_start_it(environment):
    environment()
    done = CliRunner().invoke(app, ["cluster", str(ROOT / "configs/smoke/base.yaml")])
    assert done.exit_code == 0 and "one rank: nothing to compare" in done.output


@pytest.mark.parametrize("others, kind", ((0, LostRankError), (1, ClusterError)))
def test_another_start_may_mend_missing_ranks_alone(others, kind):
    """Findings that are not fatal change nothing; each fatal one is told."""
    fine, lost, wrong = Finding("a clock is 2 s ahead", False), Finding("rank 3", True, True), Finding("versions", True)
    Report((), (fine,)).require_agreement()
    report = Report((), (fine, lost, *[wrong] * others))
    with pytest.raises(ClusterError, match="- rank 3") as error:
        report.require_agreement()
    assert type(error.value) is kind and "clock" not in str(error.value)
    assert ("- versions" in str(error.value)) == bool(others)


@pytest.mark.parametrize(
    "ahead, told",
    ((1.0, None), (1.25, "1.2 s ahead of"), (-1.0, None), (-1.25, "1.2 s behind"), (0.0, None)),
)
def test_a_clock_may_be_off_by_one_second(rendered, ahead, told):
    """Clocks that stand, so that what one is ahead of the other is exact; one second is not yet worth a warning."""
    store, places = dist.HashStore(), [place(rank, 1) for rank in range(2)]
    facts = facts_of(places[0], rendered)
    parts = [(p, facts | {"rank": p.rank, "node": p.node}, 1000 + p.rank * ahead) for p in places]
    one, two = together(*(lambda p=p, f=f, t=t: examine(store, p, f, timeout=60, clock=lambda: t) for p, f, t in parts))
    assert one == two and one.nodes[1].skew == ahead and one.nodes[1].error == 0
    messages = [finding.message for finding in one.findings]
    assert len(messages) == (told is not None)
    assert all(f"node1 (rank 1): its clock is {told} that of node0" in message for message in messages)


def test_a_node_may_be_late_by_its_bound():
    nodes = [Node(f"n{late}", 0, late, None, 0.0) for late in (0.0, preflight.LATE, preflight.LATE + 1)]
    (finding,) = preflight._warnings(nodes)
    assert finding.message.startswith(f"n{preflight.LATE + 1} (rank 0) started {preflight.LATE + 1:.0f} s after")
    assert not finding.fatal
