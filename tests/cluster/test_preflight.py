"""What keeps the ranks of a run apart, or makes nodes differ: each is found, and named with its node."""

import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from typer.testing import CliRunner

from lavie import launcher
from lavie.cli.doctor import app
from lavie.cluster import preflight, rendezvous
from lavie.cluster.preflight import examine
from lavie.cluster.rendezvous import meet, start_timeout
from lavie.errors import ClusterError, ConfigError, LostRankError
from lavie.launcher import MPI_NUMBERS, SLURM_NUMBERS, Place, find_place
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


def test_rank_0_itself_is_late(rendered, monkeypatch):
    monkeypatch.setattr(preflight, "LATE", 1.0)
    port = free_port()
    a, b = place(0, port), place(1, port)
    facts = facts_of(a, rendered), facts_of(b, rendered)
    report, _ = together(lambda: take_part(a, facts[0], delay=2), lambda: take_part(b, facts[1]))
    (finding,) = report.findings
    assert finding.message.startswith("node0 (rank 0) started 2 s after the first node")


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
    assert fault.startswith("learning_rate: 0.004 on node0 (rank 0); 0.001 on node1 (rank 1): start every rank with")
    assert exit_code(one) == FAILED


def test_a_rank_that_does_not_come(rendered):
    port = free_port()
    a = place(0, port, world_size=4)
    b = place(2, port, world_size=4)
    facts = facts_of(a, rendered), facts_of(b, rendered)
    one, two = together(lambda: take_part(a, facts[0], timeout=3), lambda: take_part(b, facts[1], timeout=3))
    assert one == two
    assert re.match(r"ranks 1, 3 did not come within \d s; node0, node2 did\.", one.faults[0])
    assert exit_code(one) == LOST


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


def test_one_rank_twice(rendered):
    port = free_port()
    ranks = [place(rank, port, world_size=3, node=node) for rank, node in ((0, "node0"), (1, "node1"), (1, "node2"))]
    parts = [(p, facts_of(p, rendered)) for p in ranks]
    done = together(*(lambda part=part: take_part(*part, timeout=3) for part in parts))
    (error,) = [d for d in done if isinstance(d, ClusterError)]
    assert "is rank 1 too: two nodes have the same node rank" in str(error)
    assert {"node1", "node2"} <= set(str(error).replace(",", " ").split())


# --- what keeps ranks apart


@pytest.mark.parametrize("address", ("no-such-node.invalid", "255.255.255.255"))
def test_rank_0_is_out_of_reach(address):
    began = time.monotonic()
    with pytest.raises(LostRankError, match=rf"node1 \(rank 1\): MASTER_ADDR {address}:29500 is out of reach"):
        meet(place(1, 29500, address=address), timeout=60, patience=2)
    assert time.monotonic() - began < 10


def test_rank_0_does_not_come():
    port = free_port()
    with pytest.raises(LostRankError, match=f"nobody listens at 127.0.0.1:{port} after 1 s.*that node's own"):
        meet(place(1, port), timeout=1, patience=0.5)


def test_the_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ClusterError, match=rf"node0 \(rank 0\): MASTER_PORT {port} is taken by process {os.getpid()}"
        ):
            meet(place(0, port), timeout=5)


def test_another_program_answers():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"node1 \(rank 1\): something answers at 127.0.0.1:{port}, but"):
            meet(place(1, port), timeout=5, patience=1)
    assert "meet" not in [thread.name for thread in threading.enumerate()], "it would wait in C++ for good"


def test_rank_0_is_elsewhere():
    with pytest.raises(ClusterError, match=r"MASTER_ADDR 192.0.2.7 is no address of this node, which has .*127.0.0.1"):
        meet(place(0, free_port(), address="192.0.2.7"), timeout=5)


def test_a_node_with_ipv6_alone(monkeypatch):
    interfaces = {
        "lo": [SimpleNamespace(family=socket.AF_INET6, address="::1")],
        "ib0": [SimpleNamespace(family=socket.AF_INET6, address=a) for a in ("fe80::1%ib0", "fd00::1")],
    }
    monkeypatch.setattr(rendezvous.psutil, "net_if_addrs", lambda: interfaces)
    with pytest.raises(ClusterError, match="no address of this node, which has ::1, fd00::1"):
        meet(place(0, free_port(), address="2001:db8::7"), timeout=5)


def test_the_doctor_of_one_rank_says_how_to_start_it(environment):
    environment()
    done = CliRunner().invoke(app, ["cluster", str(ROOT / "configs/smoke/base.yaml")])
    assert done.exit_code == 0 and "one rank: nothing to compare" in done.output


# --- places


@pytest.fixture
def environment(monkeypatch):
    launchers = ("TORCHELASTIC_USE_AGENT_STORE", *itertools.chain(*MPI_NUMBERS), *SLURM_NUMBERS.values())
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", *launchers):
        monkeypatch.setenv(name, "")  # restored afterwards, whatever find_place sets
        monkeypatch.delenv(name)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_nobody_launched_it(environment):
    environment()
    alone = find_place()
    assert (alone.rank, alone.local_rank, alone.world_size, alone.hosted) == (0, 0, 1, False)
    store, waited = meet(alone, timeout=1)
    store.set("works", "yes")
    assert store.get("works") == b"yes" and waited == 0


def test_a_rank_without_a_number_of_ranks_is_alone(environment):
    environment(RANK="0")
    assert find_place().world_size == 1


def test_tasks_of_srun_are_ranks_of_one_run(environment):
    """And not as many runs that write to one folder."""
    environment(SLURM_PROCID="5", SLURM_LOCALID="1", SLURM_STEP_NUM_TASKS="8")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 8, but MASTER_ADDR and MASTER_PORT not set: .*srun"):
        find_place()
    environment(MASTER_ADDR="n1", MASTER_PORT="29501")
    assert replace(find_place(), node="x") == Place(5, 8, 1, "n1", 29501, "x", False)


def test_an_mpi_that_knows_nothing_of_mpirun_is_found(environment, monkeypatch):
    """mpi4py for another MPI takes every process for a run of its own."""
    alone = SimpleNamespace(COMM_WORLD=SimpleNamespace(rank=0, size=1))
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=alone))
    environment(PMI_RANK="1", PMI_SIZE="2")
    with pytest.raises(ConfigError, match="mpirun started 2 processes, but mpi4py sees 1"):
        find_place()


def test_others_are_told_the_address_of_this_nodes_name(monkeypatch):
    monkeypatch.setattr(launcher, "node_addresses", lambda loopback: ["172.17.0.1", "10.0.0.5"])
    for named, told in (("10.0.0.5", "10.0.0.5"), ("127.0.1.1", "172.17.0.1")):
        monkeypatch.setattr(socket, "gethostbyname", lambda name, named=named: named)
        assert launcher._known_address() == told


def test_a_launcher_told_the_place(environment):
    environment(RANK="3", LOCAL_RANK="1", WORLD_SIZE="4", MASTER_ADDR="n1", MASTER_PORT="29501")
    assert replace(find_place(), node="x") == Place(3, 4, 1, "n1", 29501, "x", False)
    environment(TORCHELASTIC_USE_AGENT_STORE="True")
    assert find_place().hosted


@pytest.mark.parametrize(
    "values, message",
    (
        ({"RANK": "2"}, "RANK is '2': wanted 0 to 1"),
        ({"RANK": "one"}, "RANK is 'one'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2': wanted 1 or more"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is '99999': wanted 1 to 65535"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE is 2, but MASTER_ADDR not set"),
    ),
)
def test_a_place_that_cannot_be(environment, values, message):
    environment(**{**dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="n1", MASTER_PORT="29501"), **values})
    with pytest.raises(ConfigError, match=message):
        find_place()


def test_the_limit_is_a_number_of_seconds(monkeypatch):
    monkeypatch.setenv("LAVIE_START_TIMEOUT", "7.5")
    assert start_timeout() == 7.5
    monkeypatch.setenv("LAVIE_START_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match="LAVIE_START_TIMEOUT is 'soon': wanted seconds"):
        start_timeout()
