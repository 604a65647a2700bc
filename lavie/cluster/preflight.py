"""The preflight of a run of several ranks: whether its nodes reach one another and are set up alike, before all else.

1. Every rank leaves its facts in the store where the ranks meet: what it would run, and with which config. One rank of
   each node, its leader, adds the node's code and the shards that it sees.
2. Rank 0 compares the facts, and asks the leaders for the time to compare their clocks with its own.
3. Rank 0 leaves a verdict in the store, which all ranks read.

A difference that would break or falsify the run ends it, with the nodes and the difference named. Of other differences
the run warns.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..config.train import TrainConfig
from ..distributed import log
from ..errors import ClusterError, LostRankError
from ..launcher import Place, find_place, list_some, name_ranks
from .rank_facts import differences, gather_facts
from .rendezvous import PATIENCE, meet, start_timeout

LATE = 10.0
"""Seconds between the first node and a late one that are worth a warning."""
SKEW = 1.0
"""Seconds between two clocks that are worth a warning: times in logs and of files then hide what came first."""
ROUNDS = 3
"""Exchanges of time with each node. The fastest one counts, as its error is the smallest."""
FAREWELL = 5.0
"""Seconds that rank 0 keeps the store for ranks that have yet to read the verdict."""


@dataclass(frozen=True)
class Finding:
    """One thing about the nodes of a run that is not as it should be."""

    message: str
    """What differs, on which nodes, and what to do."""
    fatal: bool
    """Whether a run must not start so."""
    lost: bool = False
    """Whether ranks are missing: the one kind of fault that another start may mend by itself."""


@dataclass(frozen=True)
class Node:
    """One node of a run, as rank 0 saw it."""

    name: str
    """The host name."""
    first_rank: int
    """The rank of its leader."""
    late: float
    """Seconds after the first node, 0 or more."""
    skew: float | None
    """Seconds by which its clock is ahead of that of rank 0's node; None for rank 0's node, and where none was told."""
    error: float
    """Seconds by which `skew` may be wrong: half a round trip."""


@dataclass(frozen=True)
class Report:
    """What the preflight found: the nodes of the run, and all that is wrong with them."""

    nodes: tuple[Node, ...]
    """The nodes whose leader came, by rank."""
    findings: tuple[Finding, ...]
    """All that is not as it should be; empty for nodes that are set up alike."""

    @property
    def faults(self) -> list[str]:
        """The messages of the fatal findings."""
        return [finding.message for finding in self.findings if finding.fatal]

    def require_agreement(self) -> None:
        """Raise an error if a finding is fatal.

        Raises:
            LostRankError: ranks are missing, and nothing else is wrong.
            ClusterError: there are other faults.
        """
        if self.faults:
            lost = all(finding.lost for finding in self.findings if finding.fatal)
            kind, what = (LostRankError, "ranks are missing") if lost else (ClusterError, "the nodes do not agree")
            raise kind(f"{what}:\n" + "\n".join(f"- {fault}" for fault in self.faults))


def preflight(config: TrainConfig, deepspeed_json: str | Path) -> dist.Store | None:
    """Bring the ranks together, compare them, and return the store for their process group.

    Returns:
        The store; None where this process has a process group already, whose ranks know one another.

    Raises:
        LostRankError: ranks are missing, and nothing else is wrong.
        ClusterError: the run must not start; the message, the same on every rank, names nodes and causes.
    """
    if dist.is_initialized():
        return None
    place, timeout = find_place(), start_timeout()
    store, waited = meet(place, timeout)
    if place.world_size > 1:
        report = examine(store, place, gather_facts(place, config, deepspeed_json, waited), timeout)
        if place.rank == 0:
            for finding in report.findings:
                if not finding.fatal:
                    log.warning(finding.message)
        report.require_agreement()
    return store


def examine(
    store: dist.Store,
    place: Place,
    facts: Mapping[str, Any],
    timeout: float,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.time,
) -> Report:
    """Compare the facts of all ranks and return the same report on every rank. All ranks call it together.

    Args:
        store: the store where the ranks meet.
        place: this rank's.
        facts: those of this rank, as `gather_facts` returns them.
        timeout: seconds after which ranks that have not come are given up.
        patience: seconds after which differences are told without waiting for more ranks, and after which a rank that
            does not answer is lost.
        clock: seconds since the epoch on this node.

    Raises:
        ClusterError: another process has this rank's place.
        LostRankError: rank 0 is lost.
    """
    text = json.dumps(facts)
    try:
        # The first process to leave facts for a rank has that rank; a second one finds the facts of the first.
        stored = store.compare_set(f"facts/{place.rank}", "", text).decode()
        if stored != text:
            raise ClusterError(
                f"{place}: another process, on {json.loads(stored)['node']}, is rank {place.rank} too: two nodes have "
                "the same node rank, or two runs share the MASTER_PORT"
            )

        # Rank 0 answers the others by its verdict, which they wait for.
        if place.rank == 0:
            return _lead(store, place.world_size, timeout, patience, clock)
        if facts["leads"]:
            _tell_time(store, place.rank, clock)
        verdict = json.loads(store.get("verdict"))
        store.add("readers", 1)
    except RuntimeError as error:
        raise LostRankError(
            f"{place}: rank 0 at {place.endpoint} was lost ({str(error).splitlines()[0]}): look at its output"
        ) from None

    return Report(
        tuple(Node(**node) for node in verdict["nodes"]), tuple(Finding(**finding) for finding in verdict["findings"])
    )


def _lead(store: dist.Store, world_size: int, timeout: float, patience: float, clock: Callable[[], float]) -> Report:
    """Do rank 0's part of `examine`: collect the facts, compare them and the clocks, and leave the verdict."""
    facts, arrivals, waited = _collect(store, world_size, timeout, patience)
    present = [facts[rank] for rank in sorted(facts)]
    missing = sorted(set(range(world_size)) - facts.keys())
    findings: list[Finding] = []

    # Clocks are compared only where all have come: a run without some ranks does not start.
    skews: dict[int, tuple[float, float]] = {}
    if missing:
        nodes_here = sorted({rank_facts["node"] for rank_facts in present})
        findings.append(
            Finding(
                f"{name_ranks(missing)} did not come within {waited:.0f} s; {list_some(nodes_here)} did. The missing "
                "nodes have not started, have failed before (see their output), or cannot reach MASTER_ADDR and "
                "MASTER_PORT. LAVIE_START_TIMEOUT is the limit in seconds",
                fatal=True,
                lost=True,
            )
        )
    else:
        leaders = [rank for rank, rank_facts in facts.items() if rank_facts["leads"] and rank]
        skews, silent = _ask_time(store, leaders, patience, clock)
        for rank in silent:
            message = f"{facts[rank]['node']} (rank {rank}) came, then said no more: look at its output"
            findings.append(Finding(message, fatal=True, lost=True))
    findings += [Finding(message, fatal=True) for message in differences(present)]

    # A rank began to look for rank 0 `waited` seconds before it came, and so shows how late rank 0 itself was.
    starts = {rank: arrivals[rank] - facts[rank]["waited"] for rank in facts}
    first = min(starts.values())
    nodes = []
    for rank in sorted(facts):
        if facts[rank]["leads"]:
            skew, error = skews.get(rank, (None, 0.0))
            nodes.append(Node(facts[rank]["node"], rank, starts[rank] - first, skew, error))
    findings += _warnings(nodes)

    report = Report(tuple(nodes), tuple(findings))
    store.set("verdict", json.dumps(asdict(report)))
    _wait_for_readers(store, len(facts) - 1)
    return report


def _collect(
    store: dist.Store, world_size: int, timeout: float, patience: float
) -> tuple[dict[int, dict[str, Any]], dict[int, float], float]:
    """Wait for the facts of all ranks.

    After `patience` seconds, ranks that have come and differ are fault enough: the others are not waited for.

    Returns:
        By rank, the facts that came within `timeout` seconds; by rank, the seconds after which they came; the seconds
        waited in all.
    """
    began, warned = time.monotonic(), False
    facts: dict[int, dict[str, Any]] = {}
    arrivals: dict[int, float] = {}
    while True:
        for rank in range(world_size):
            if rank not in facts and store.check([f"facts/{rank}"]):
                facts[rank] = json.loads(store.get(f"facts/{rank}"))
                arrivals[rank] = time.monotonic() - began
        missing = [rank for rank in range(world_size) if rank not in facts]
        waited = time.monotonic() - began
        if not missing or waited > timeout:
            return facts, arrivals, waited

        if waited > patience and not warned:
            warned = True
            present = [facts[rank] for rank in sorted(facts)]
            if differences(present):
                return facts, arrivals, waited
            nodes_here = sorted({rank_facts["node"] for rank_facts in present})
            log.warning(f"not there after {waited:.0f} s: {name_ranks(missing)}; there are {list_some(nodes_here)}")
        time.sleep(0.02 if waited < 1 else 0.2)


def _ask_time(
    store: dist.Store, leaders: list[int], patience: float, clock: Callable[[], float]
) -> tuple[dict[int, tuple[float, float]], list[int]]:
    """Compare each leader's clock with that of rank 0, over the store; the counterpart of `_tell_time`.

    Returns:
        By rank, the seconds that a leader's clock is ahead of this one, and by how much that may be wrong; and the
        ranks of the leaders that do not answer. The first of those costs `patience` seconds, the others one each.
    """
    skews: dict[int, tuple[float, float]] = {}
    silent: list[int] = []
    store.set("clocks", "")
    for rank in leaders:
        limit = timedelta(seconds=1 if silent else patience)
        try:
            for exchange in range(ROUNDS):
                # This leader may have waited for those before it in the first exchange, but not in the others.
                store.wait([f"ping/{rank}/{exchange}"], limit)
                store.set(f"pong/{rank}/{exchange}", repr(clock()))
            store.wait([f"skew/{rank}"], limit)
        except dist.DistStoreError:
            silent.append(rank)
        else:
            ahead, error = json.loads(store.get(f"skew/{rank}"))
            skews[rank] = ahead, error
    return skews, silent


def _tell_time(store: dist.Store, rank: int, clock: Callable[[], float]) -> None:
    """Answer `_ask_time` as a leader, or do nothing where rank 0 gives its verdict without comparing clocks."""
    while not store.check(["clocks"]):
        if store.check(["verdict"]):
            return
        time.sleep(0.1)
    best = (0.0, float("inf"))
    for exchange in range(ROUNDS):
        sent = clock()
        store.set(f"ping/{rank}/{exchange}", "")
        reference = float(store.get(f"pong/{rank}/{exchange}"))
        received = clock()
        skew_and_error = (sent + received) / 2 - reference, (received - sent) / 2
        best = min(best, skew_and_error, key=lambda pair: pair[1])
    store.set(f"skew/{rank}", json.dumps(best))


def _wait_for_readers(store: dist.Store, number: int) -> None:
    """Keep rank 0, and with it the store, until `number` ranks have read the verdict, or FAREWELL seconds."""
    end = time.monotonic() + FAREWELL
    while store.add("readers", 0) < number and time.monotonic() < end:
        time.sleep(0.01)


def _warnings(nodes: Sequence[Node]) -> list[Finding]:
    """Return a finding for each node that is more than LATE seconds late, and each clock more than SKEW seconds off."""
    messages = []
    for node in nodes:
        who = f"{node.name} (rank {node.first_rank})"
        if node.late > LATE:
            messages.append(f"{who} started {node.late:.0f} s after the first node: is its disk, or its network, slow?")
        if node.skew is not None and abs(node.skew) - node.error > SKEW:
            way = "ahead of" if node.skew > 0 else "behind"
            messages.append(
                f"{who}: its clock is {abs(node.skew):.1f} s {way} that of {nodes[0].name}: times in logs and of files "
                "mislead. Start NTP or chrony on both"
            )
    return [Finding(message, fatal=False) for message in messages]
