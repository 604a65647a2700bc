"""The settings of `lavie curate scan`."""

from .base import Strict


class ScanConfig(Strict):
    """One decode of every film, which feeds all cheap columns."""
