"""Pixels as floats and back: every level returns, and what lies outside the range becomes its ends."""

import torch

from lavie.pixels import to_float, to_uint8


def test_every_level_returns_through_floats():
    levels = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 16, 1).expand(2, 8, 16, 3)
    floats = to_float(levels)
    assert floats.shape == (2, 3, 8, 16) and floats.dtype == torch.float32
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(to_uint8(floats), levels)


def test_levels_are_the_nearest_and_stay_in_range():
    floats = torch.tensor([-1.5, -1 + 0.6 / 127.5, 0.3 / 127.5 - 1, 1.5]).reshape(1, 1, 4).expand(3, 1, 4)
    assert to_uint8(floats)[0, :, 0].tolist() == [0, 1, 0, 255]
