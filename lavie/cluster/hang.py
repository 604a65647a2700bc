"""Why a run hangs: from what its ranks are at, who holds up the others, and the exit code that says so.

1. A rank that does not answer holds up all others: it is stopped, cut off, or gone.
2. Where some wait for others in a collective and some do not, those that do not hold them up.
3. Where all wait for one another at different places, their ways have parted.
4. Where all wait at the same place, what is between them is slow; where none waits, all are slow.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum

from ..launcher import SHOWN, name_ranks
from .sighting import Sighting


class Cause(IntEnum):
    """Why a run hangs; the value is the exit code of its ranks.

    They are above those of ranks which a signal ends (128 + signal) and below that of an error that would come again,
    for srun reports the largest code of all ranks. launch/env.sh starts a job with such a code again.
    """

    SILENT = 191
    """A rank does not answer: it is stopped, cut off from the others, or stuck in C code."""
    DIVERGED = 192
    """The ranks wait for one another in different collectives: their ways have parted."""
    STARVED = 193
    """The loader of a rank gives no data."""
    STORAGE = 194
    """A rank does not come to the end of writing: the file system is slow, or hangs."""
    STUCK = 195
    """A rank does not come to the end of what it computes."""
    NETWORK = 196
    """All ranks wait for one another at the same place: the network between them is slow, or hangs."""
    LOST = 199
    """A rank has ended."""


WHY = {
    Cause.SILENT: "does not answer: stopped, cut off, or stuck in C code",
    Cause.DIVERGED: "the ranks wait for one another in different places: their ways have parted",
    Cause.STARVED: "waits for data: its loader starves (a slow disk? too few data.num_workers?)",
    Cause.STORAGE: "does not come to the end of writing: is the file system slow, or full?",
    Cause.STUCK: "does not go on",
    Cause.NETWORK: "all ranks wait for one another at the same place: the network between them is slow, or hangs",
    Cause.LOST: "has ended: look for its own message, or that of the node (out of memory?)",
}
BY_SECTION = {"data": Cause.STARVED, "save": Cause.STORAGE, "between": Cause.STORAGE}
"""Why a rank that waits for no other does not go on, by its section; STUCK elsewhere."""


@dataclass(frozen=True)
class Missing:
    """A rank that does not answer."""

    rank: int
    last: Sighting | None
    """What it said last; None if it never said anything."""
    state: str
    """"gone" where its process has ended, "stopped" by a signal, "" where nobody on its node has looked."""

    def __str__(self) -> str:
        """Say who it is and where it was last."""
        if self.last is None:
            return f"rank {self.rank}, which never said where it is"
        module = f" in module {self.last.module}" if self.last.module else ""
        state = f", {self.state}" if self.state else ""
        return f"{self.last.who}{state}, last seen {self.last.doing}{module}"


@dataclass(frozen=True)
class Verdict:
    """Why the run hangs, and whose doing it is."""

    cause: Cause
    culprits: tuple[int, ...]
    """The ranks that hold up the others, ascending."""
    text: str
    """Lines for the user."""
    missing: tuple[int, ...] = ()
    """The ranks that did not answer, ascending."""
    stopped: tuple[tuple[str, int], ...] = ()
    """Host name and process of each rank that a signal has stopped."""

    def dumps(self) -> str:
        """Return it as JSON, without its text."""
        return json.dumps(asdict(self) | {"text": ""})

    @classmethod
    def loads(cls, text: bytes) -> "Verdict | None":
        """Return what `dumps` wrote; None for null."""
        if (values := json.loads(text)) is None:
            return None
        stopped = tuple((node, process) for node, process in values["stopped"])
        return cls(Cause(values["cause"]), tuple(values["culprits"]), "", tuple(values["missing"]), stopped)


def judge(present: Sequence[Sighting], missing: Sequence[Missing] = ()) -> Verdict:
    """Return why a run hangs.

    Args:
        present: the ranks that answered, with their stacks, at least one.
        missing: those that did not.
    """
    busy = [s for s in present if not s.waits]
    places = _by_place(present)
    if missing:
        ended = all(m.state == "gone" for m in missing)
        cause, culprits = (Cause.LOST if ended else Cause.SILENT), [m.rank for m in missing]
    elif busy:
        # Some may be held up without a collective that shows; data and files are what no other rank holds up.
        culprits = [s.rank for s in busy if s.section in BY_SECTION] or [s.rank for s in busy]
        cause = BY_SECTION.get(next(s.section for s in busy if s.rank == culprits[0]), Cause.STUCK)
    elif len(places) > 1:
        most = max(map(len, places))
        few = [s.rank for group in places if len(group) < most for s in group]
        cause, culprits = Cause.DIVERGED, few or [s.rank for s in present]
    else:
        cause, culprits = Cause.NETWORK, [s.rank for s in present]
    return Verdict(
        cause,
        tuple(sorted(culprits)),
        _tell(cause, sorted(culprits), places, missing),
        tuple(sorted(m.rank for m in missing)),
        tuple((m.last.node, m.last.pid) for m in missing if m.last and m.state == "stopped"),
    )


def _by_place(present: Sequence[Sighting]) -> list[list[Sighting]]:
    """Return the ranks that are at the same place together, those of the lowest rank first."""
    groups: Mapping[object, list[Sighting]] = defaultdict(list)
    for sighting in sorted(present, key=lambda s: s.rank):
        groups[sighting.place].append(sighting)
    return list(groups.values())


def _tell(cause: Cause, culprits: list[int], places: list[list[Sighting]], missing: Sequence[Missing]) -> str:
    """Return the lines of a verdict: who and why, where each group of ranks is, and a stack of each."""
    whole = cause in (Cause.DIVERGED, Cause.NETWORK)
    lines = [f"the run hangs: {WHY[cause] if whole else f'{name_ranks(culprits)} {WHY[cause]}'}"]
    lines += [f"- {m}" for m in missing[:SHOWN]]

    # The groups of those who hold up the others come first.
    places = sorted(places, key=lambda group: group[0].rank not in culprits)
    for group in places[:SHOWN]:
        alike = f"; so {name_ranks([s.rank for s in group[1:]])}" if group[1:] else ""
        lines.append(f"- {group[0]}{alike}")
    for group in places[:SHOWN]:
        lines += [f"stack of {group[0].who}:", *group[0].stack]
    return "\n".join([*lines, f"every rank leaves with exit code {cause:d}"])
