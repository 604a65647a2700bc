"""Which samples of a bad step are to blame, and the line of the log that says so.

Rows of a batch do not mix in the network, so each has its own part of the gradient of what the network read: a row
whose part is not finite is to blame, and of a row, the clip or the image whose frames are. Where no row shows it, all
rows of the micro-batches whose loss is not finite are named, and else all rows of the step.
"""

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from ..config.data import DataConfig
from ..distributed import gather_objects, rank
from .faults import LOSS, SPIKES
from .update import MicroBatch

NAMED = 8
"""The most samples that one message names."""


class Suspect(NamedTuple):
    """A row that may be to blame, with the samples of it that may be."""

    rank: int
    position: int
    keys: tuple[str, ...]


class Blame(NamedTuple):
    """The rows to blame for a step."""

    suspects: list[Suspect]
    certain: bool
    """Whether the rows themselves showed it; else they are those of a micro-batch or of the whole step."""

    @property
    def keys(self) -> list[str]:
        """The keys of all samples, each once."""
        return list(dict.fromkeys(key for suspect in self.suspects for key in suspect.keys))


def blame(fault: str, micro_batches: Sequence[MicroBatch]) -> Blame:
    """Return the rows of all ranks that are to blame for the fault of a step. Collective.

    Args:
        fault: as `Faults.judge` returned it on all ranks.
        micro_batches: this rank's, after the backward pass.
    """
    if fault in SPIKES:
        _, largest = max(gather_objects(_largest(micro_batches)))
        return Blame([largest], True)
    here, certain = [s for m in micro_batches for s in _spoilt(m)], True
    if fault == LOSS:
        for micro_batch in micro_batches:
            if not micro_batch.loss.total.isfinite() and not _spoilt(micro_batch):
                here += _rows(micro_batch)
                certain = False
    found = gather_objects((here, certain))
    if any(suspects for suspects, _ in found):
        return Blame([s for suspects, _ in found for s in suspects], all(sure for _, sure in found))
    everything = gather_objects([s for m in micro_batches for s in _rows(m)])
    return Blame([s for suspects in everything for s in suspects], False)


def spoilt_keys(gradient: Tensor, keys: Sequence[str]) -> tuple[str, ...]:
    """Return the samples of a row whose frames of the gradient are not finite.

    Args:
        gradient: (C, F + N, h, w): the row's part of the gradient of what the network read.
        keys: 1 + N, the clip's and the images'.
    """
    finite = gradient.isfinite().all(dim=0).flatten(1).all(dim=1).tolist()
    frames = len(finite) - (len(keys) - 1)
    of_samples = [all(finite[:frames]), *finite[frames:]]
    return tuple(key for key, sound in zip(keys, of_samples, strict=True) if not sound)


def _spoilt(micro_batch: MicroBatch) -> list[Suspect]:
    """Return the rows of a micro-batch whose part of the gradient is not finite."""
    if micro_batch.sample.grad is None:
        return []
    rows = []
    for position, keys, gradient in zip(micro_batch.positions, micro_batch.keys, micro_batch.sample.grad, strict=True):
        if spoilt := spoilt_keys(gradient, keys):
            rows.append(Suspect(rank(), position, spoilt))
    return rows


def _rows(micro_batch: MicroBatch) -> list[Suspect]:
    """Return all rows of a micro-batch."""
    pairs = zip(micro_batch.positions, micro_batch.keys, strict=True)
    return [Suspect(rank(), position, tuple(keys)) for position, keys in pairs]


def _largest(micro_batches: Sequence[MicroBatch]) -> tuple[float, Suspect]:
    """Return this rank's row with the largest part of the gradient, and the norm of that."""
    found = []
    for micro_batch in micro_batches:
        for row, suspect in enumerate(_rows(micro_batch)):
            gradient = micro_batch.sample.grad
            found.append((0.0 if gradient is None else float(gradient[row].norm()), suspect))
    return max(found)


def told(suspects: Sequence[Suspect]) -> str:
    """Return rows as a message names them: where each was, and its samples."""
    lines = [f"position {s.position} on rank {s.rank}: {', '.join(s.keys)}" for s in suspects[:NAMED]]
    more = f"; and {len(suspects) - NAMED} rows more" if len(suspects) > NAMED else ""
    return "; ".join(lines) + more


def excluding(keys: Iterable[str], data: DataConfig) -> str:
    """Return what leaves samples out, as a shell takes it, with those that a run leaves out already.

    Args:
        keys: of the samples.
        data: the run's.
    """
    if isinstance(data.exclude, str):
        return f"lines {', '.join(keys)} in {data.exclude} (data.exclude)"
    every = list(dict.fromkeys([*data.exclude, *keys]))
    return shlex.quote(f"data.exclude={json.dumps(every, ensure_ascii=False)}")


def shown(value: float) -> str:
    """Return a number as a message shows it: "nan" and "inf" where it is none."""
    return f"{value:.4g}" if math.isfinite(value) else str(value)
