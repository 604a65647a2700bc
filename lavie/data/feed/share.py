"""Which part of a run's batches one rank reads."""

from dataclasses import dataclass

from ..order.permutation import positions


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of a run that one rank reads, and what the order of the samples depends on.

    A step of the run takes `global_batch` positions. They are divided into `world_size` slices in the order of the
    ranks, and a rank reads its slice as `gradient_accumulation_steps` micro-batches of `train_batch_size` rows.
    """

    seed: int
    """Draws the order of the samples and all that is random in them; the same on every rank."""
    train_batch_size: int
    """Rows of one micro-batch of one rank, from 1."""
    gradient_accumulation_steps: int = 1
    """Micro-batches of one rank in a step, from 1. By default every micro-batch is a step."""
    rank: int = 0
    """The rank that reads, from 0 to `world_size` - 1."""
    world_size: int = 1
    """Ranks of the run, from 1. By default one process reads everything."""

    @property
    def global_batch(self) -> int:
        """Rows of a step over all ranks."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def positions(self, step: int) -> range:
        """Return the global positions that the rank reads in a step, counted from 0."""
        return positions(step, self.global_batch, self.rank, self.world_size)
