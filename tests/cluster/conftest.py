"""The rendered set, for the tests in this folder."""

from tests.training.conftest import rendered

__all__ = ["rendered"]
