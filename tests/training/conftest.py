"""The fixtures of the tests of training."""

from tests.cli.fixtures import call, folder_of_configs
from tests.training.fixtures import pretrained, rendered

__all__ = ["call", "folder_of_configs", "pretrained", "rendered"]
