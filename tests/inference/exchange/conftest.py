"""The fixture of the exported stages, for the tests in this folder."""

from tests.inference.exchange.exports import exported

__all__ = ["exported"]
