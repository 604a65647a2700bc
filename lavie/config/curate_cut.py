"""The settings of `lavie curate cut`."""

from .base import Strict


class CutConfig(Strict):
    """Where films are cut into clips."""
