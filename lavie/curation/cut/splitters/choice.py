"""The choice of a splitter by what the settings say, as `content:27`."""

from importlib import import_module
from typing import Any

from .base import Splitter

SPLITTERS = {
    "sharp": "sharp:Sharp",
    "content": "content:Content",
    "adaptive": "adaptive:Adaptive",
    "transnet": "transnet:Transnet",
}
"""The splitters by name, each with its module and class; those after the first take a threshold."""


def find_splitter(text: str) -> Splitter:
    """Return a splitter.

    Args:
        text: as `CutConfig.splitter` has it: its name, and behind a colon a threshold that is not its own.

    Raises:
        ConfigError: what it needs is not installed.
    """
    name, _, threshold = text.partition(":")
    module, _, kind = SPLITTERS[name].partition(":")
    splitter: Any = getattr(import_module(f".{module}", __package__), kind)
    return splitter(float(threshold)) if threshold else splitter()
