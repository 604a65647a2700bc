"""A way to call a command, for the tests of choosing clips."""

from tests.cli.fixtures import call

__all__ = ["call"]
