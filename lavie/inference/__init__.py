"""Sampling: the networks of all stages, alone or as a `Cascade`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cascade import Cascade

__all__ = ["Cascade"]


def __getattr__(name: str) -> Any:
    """`Cascade`, imported when asked for: with it comes all that sampling needs."""
    if name == "Cascade":
        from .cascade import Cascade

        return Cascade
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
