"""The request to stop: SIGUSR2, which a scheduler sends before a job's time is up or its nodes are taken away.

The signal is blocked and asked for between steps: it interrupts no save and no collective. The processes that a rank
starts (decoding workers, compilers) inherit the mask, so a signal to a whole job ends none of them either. It is USR2,
for NCCL may take USR1 for itself.
"""

import signal
from typing import TYPE_CHECKING

from ..errors import LavieError, LostRankError

if TYPE_CHECKING:
    import torch

SIGNAL = signal.SIGUSR2
STOPPED = 85
"""Exit code of a run that was asked to stop, and is to be started again. launch/env.sh knows this code and FAILED."""
LOST = 199
"""Exit code of a rank that has lost a peer. It is below FAILED because srun reports the largest code of all ranks, and
the peer's own says more."""
FAILED = 200
"""Exit code of a run that would fail again: another LavieError. Larger than that of the ranks which are ended because
of it, 128 + SIGTERM."""


def listen() -> None:
    """From now on the signal waits to be asked for. Call it before torch is imported, whose threads must inherit it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})


def exit_code(error: LavieError) -> int:
    """The code with which a rank leaves after this error."""
    return LOST if isinstance(error, LostRankError) else FAILED


def requested(device: "torch.device") -> bool:
    """Whether any rank has got the signal: the same answer on all. Collective.

    After a yes, SIGTERM is ignored. It has nothing to add while the last step is saved, and SLURM sends it to all ranks
    as soon as the first one has left with an exit code that is not 0.
    """
    import torch  # here, not above: see listen

    from ..distributed import sum_over_ranks

    asked = torch.tensor(float(SIGNAL in signal.sigpending()), device=device)
    if not sum_over_ranks(asked).item():
        return False
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return True
