"""The rendered set, for the tests in this folder."""

from tests.training.fixtures import rendered

__all__ = ["rendered"]
