"""Sampling: the networks of all stages, alone or as a `Cascade`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cascade import Cascade

__all__ = ["Cascade"]


def __getattr__(name: str) -> Any:
    """Import `Cascade` when it is first asked for: all that sampling needs comes with it, which takes seconds."""
    if name == "Cascade":
        from .cascade import Cascade

        return Cascade
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
