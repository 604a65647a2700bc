"""The fixtures of the tests of training."""

from tests.training.fixtures import pretrained, rendered

__all__ = ["pretrained", "rendered"]
