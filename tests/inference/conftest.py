"""The tiny cascade, for the tests in this folder."""

from tests.cascades import cascade_folder, pretrained, without_sampling

__all__ = ["cascade_folder", "pretrained", "without_sampling"]
