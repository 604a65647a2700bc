"""Fixtures of the tests of pages."""

from tests.cascades import cascade_folder

__all__ = ["cascade_folder"]
