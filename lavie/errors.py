"""The errors that a user can cause and mend.

Each message says what was got, what was wanted, and which key, flag or file to change.
"""


class LavieError(Exception):
    """Base of every error meant for the user: `train.py` and `lavie` print its message without a traceback."""


class ConfigError(LavieError):
    """A setting is unknown, out of range, or contradicts another one."""


class DataError(LavieError):
    """A shard, an index or a media file cannot be used as asked."""


class CheckpointError(LavieError):
    """Weights or a training state are missing, incomplete, or do not fit the network."""


class KernelError(LavieError):
    """A run asks for kernels that cannot run on this machine."""


class TrainingError(LavieError):
    """A run cannot go on: its loss is not finite, for example."""


class ClusterError(LavieError):
    """The nodes of a run cannot reach one another, or are not set up alike."""


class LostRankError(ClusterError):
    """A rank never started, exited or is unreachable. Starting the run again, or on other nodes, may help."""
