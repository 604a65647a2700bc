"""Before a run of several ranks builds anything: do the nodes reach one another, and are they set up alike?

Every rank leaves a card in the store: what it would run, and with which config; one rank of each node also its code
and the shards that it sees. Rank 0 lays the cards side by side, measures the clocks, and gives a verdict that all read.
A difference that would break or falsify the run ends it, with the nodes and the difference named; of the rest it warns.
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
from ..launcher import Place, find_place
from .rank_facts import compare, make_card, name_ranks, some
from .rendezvous import PATIENCE, meet, start_timeout

LATE = 10.0
"""Seconds between the first node and a late one that are worth a warning."""
SKEW = 1.0
"""Seconds between two clocks that are worth a warning: times in logs and of files no longer tell what came first."""
ROUNDS = 3
"""Exchanges of time with each node; the fastest one counts."""
FAREWELL = 5.0
"""Seconds that rank 0 keeps the store for those who have yet to read the verdict."""


@dataclass(frozen=True)
class Finding:
    """Something about the nodes that is not as it should be."""

    message: str
    """What differs, on which nodes, and what to do."""
    fatal: bool
    """Whether a run must not start so."""
    lost: bool = False
    """Whether ranks are missing: the one kind of fault that another start may not find again."""


@dataclass(frozen=True)
class Node:
    """One node, as rank 0 saw it."""

    name: str
    first_rank: int
    late: float
    """Seconds after the first node."""
    skew: float | None
    """Seconds its clock is ahead of rank 0's node; None for that one."""
    error: float
    """Seconds by which `skew` may be wrong: half a round trip."""


@dataclass(frozen=True)
class Report:
    """What the preflight found."""

    nodes: tuple[Node, ...]
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> list[str]:
        """The messages of the fatal findings."""
        return [finding.message for finding in self.findings if finding.fatal]

    def require_agreement(self) -> None:
        """Raise ClusterError if there are faults; LostRankError if all that is wrong are ranks that are missing."""
        if self.faults:
            lost = all(finding.lost for finding in self.findings if finding.fatal)
            kind, what = (LostRankError, "ranks are missing") if lost else (ClusterError, "the nodes do not agree")
            raise kind(f"{what}:\n" + "\n".join(f"- {fault}" for fault in self.faults))


def preflight(config: TrainConfig, deepspeed_json: str | Path) -> dist.Store | None:
    """Bring the ranks together and compare them; the store for their process group, or None if they have one already.

    Raises ClusterError on every rank, naming nodes and causes, if the run must not start; LostRankError if all that
    is wrong are ranks that are missing.
    """
    if dist.is_initialized():  # a second trainer in one process: its ranks are known to one another
        return None
    place, timeout = find_place(), start_timeout()
    store, waited = meet(place, timeout)
    if place.world_size > 1:
        report = examine(store, place, make_card(place, config, deepspeed_json, waited), timeout)
        if place.rank == 0:
            for finding in report.findings:
                if not finding.fatal:
                    log.warning(finding.message)
        report.require_agreement()
    return store


def examine(
    store: dist.Store,
    place: Place,
    card: Mapping[str, Any],
    timeout: float,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.time,
) -> Report:
    """Compare the cards of all ranks: the same report on every rank. All ranks call it together.

    `clock` tells the seconds since the epoch. Raises ClusterError if another process has this rank's place,
    LostRankError if rank 0 is lost.
    """
    text = json.dumps(card)
    try:
        there = store.compare_set(f"card/{place.rank}", "", text).decode()
        if there != text:
            raise ClusterError(
                f"{place}: another process, on {json.loads(there)['node']}, is rank {place.rank} too: two nodes have "
                "the same node rank, or two runs share the MASTER_PORT"
            )
        if place.rank == 0:
            return _lead(store, place.world_size, timeout, patience, clock)
        if card["leads"]:
            _tell_time(store, place.rank, clock)
        verdict = json.loads(store.get("verdict"))
        store.add("readers", 1)
    except RuntimeError as error:
        raise LostRankError(
            f"{place}: rank 0 at {place.endpoint} was lost ({str(error).splitlines()[0]}): look at its output"
        ) from None
    return Report(tuple(Node(**n) for n in verdict["nodes"]), tuple(Finding(**f) for f in verdict["findings"]))


def _lead(store: dist.Store, world_size: int, timeout: float, patience: float, clock: Callable[[], float]) -> Report:
    """Rank 0's part: gather the cards, compare, measure the clocks, and give the verdict."""
    cards, came, waited = _gather(store, world_size, timeout, patience)
    missing = sorted(set(range(world_size)) - cards.keys())
    findings: list[Finding] = []
    skews: dict[int, tuple[float, float]] = {}
    if missing:
        there = sorted({card["node"] for card in cards.values()})
        findings.append(
            Finding(
                f"{name_ranks(missing)} did not come within {waited:.0f} s; {some(there)} did. The missing "
                "nodes have not started, have failed before (see their output), or cannot reach MASTER_ADDR and "
                "MASTER_PORT. LAVIE_START_TIMEOUT is the limit in seconds",
                fatal=True,
                lost=True,
            )
        )
    else:
        skews, silent = _ask_time(store, [r for r, card in cards.items() if card["leads"] and r], patience, clock)
        findings += [
            Finding(f"{cards[r]['node']} (rank {r}) came, then said no more: look at its output", fatal=True, lost=True)
            for r in silent
        ]
    findings += [Finding(message, fatal=True) for message in compare([cards[r] for r in sorted(cards)])]
    began = {r: came[r] - card["waited"] for r, card in cards.items()}
    # Those who waited for rank 0 show by how much it was late itself.
    first = min(began.values())
    nodes = []
    for r in sorted(cards):
        if cards[r]["leads"]:
            skew, error = skews.get(r, (None, 0.0))
            nodes.append(Node(cards[r]["node"], r, began[r] - first, skew, error))
    findings += _warnings(nodes)
    report = Report(tuple(nodes), tuple(findings))
    store.set("verdict", json.dumps(asdict(report)))
    _wait_for_readers(store, len(cards) - 1)
    return report


def _gather(
    store: dist.Store, world_size: int, timeout: float, patience: float
) -> tuple[dict[int, dict[str, Any]], dict[int, float], float]:
    """The cards that came within `timeout`, by rank, the seconds after which each did, and the seconds in all.

    Those that are there after `patience` and differ are fault enough: the others are not waited for.
    """
    began, told = time.monotonic(), False
    cards: dict[int, dict[str, Any]] = {}
    came: dict[int, float] = {}
    while True:
        for r in range(world_size):
            if r not in cards and store.check([f"card/{r}"]):
                cards[r], came[r] = json.loads(store.get(f"card/{r}")), time.monotonic() - began
        missing = [r for r in range(world_size) if r not in cards]
        waited = time.monotonic() - began
        if not missing or waited > timeout:
            return cards, came, waited
        if waited > patience and not told:
            told = True
            if compare([cards[r] for r in sorted(cards)]):
                return cards, came, waited
            there = sorted({card["node"] for card in cards.values()})
            log.warning(f"not there after {waited:.0f} s: {name_ranks(missing)}; there are {some(there)}")
        time.sleep(0.02 if waited < 1 else 0.2)


def _ask_time(
    store: dist.Store, leaders: list[int], patience: float, clock: Callable[[], float]
) -> tuple[dict[int, tuple[float, float]], list[int]]:
    """How far each leader's clock is ahead of this one, and by how much that may be wrong, in seconds.

    And the leaders that do not answer: the first of them within `patience` seconds, the others at once.
    """
    skews: dict[int, tuple[float, float]] = {}
    silent: list[int] = []
    store.set("clocks", "")
    for r in leaders:
        limit = timedelta(seconds=1 if silent else patience)
        try:
            for i in range(ROUNDS):
                # The first may have waited for the leaders before; the others have not.
                store.wait([f"ping/{r}/{i}"], limit)
                store.set(f"pong/{r}/{i}", repr(clock()))
            store.wait([f"skew/{r}"], limit)
        except dist.DistStoreError:
            silent.append(r)
        else:
            ahead, error = json.loads(store.get(f"skew/{r}"))
            skews[r] = ahead, error
    return skews, silent


def _tell_time(store: dist.Store, rank: int, clock: Callable[[], float]) -> None:
    """A leader's part of `_ask_time`, or nothing if there is a verdict without it."""
    while not store.check(["clocks"]):
        if store.check(["verdict"]):
            return
        time.sleep(0.1)
    best = (0.0, float("inf"))
    for i in range(ROUNDS):
        sent = clock()
        store.set(f"ping/{rank}/{i}", "")
        theirs = float(store.get(f"pong/{rank}/{i}"))
        received = clock()
        best = min(best, ((sent + received) / 2 - theirs, (received - sent) / 2), key=lambda pair: pair[1])
    store.set(f"skew/{rank}", json.dumps(best))


def _wait_for_readers(store: dist.Store, number: int) -> None:
    end = time.monotonic() + FAREWELL
    while store.add("readers", 0) < number and time.monotonic() < end:
        time.sleep(0.01)


def _warnings(nodes: Sequence[Node]) -> list[Finding]:
    found = []
    for node in nodes:
        who = f"{node.name} (rank {node.first_rank})"
        if node.late > LATE:
            found.append(f"{who} started {node.late:.0f} s after the first node: is its disk, or its network, slow?")
        if node.skew is not None and abs(node.skew) - node.error > SKEW:
            way = "ahead of" if node.skew > 0 else "behind"
            found.append(
                f"{who}: its clock is {abs(node.skew):.1f} s {way} that of {nodes[0].name}: times in logs and of files "
                "mislead. Start NTP or chrony on both"
            )
    return [Finding(message, fatal=False) for message in found]
