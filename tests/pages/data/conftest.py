"""The small demo set, for the tests in this folder."""

from tests.data.conftest import demo

__all__ = ["demo"]
