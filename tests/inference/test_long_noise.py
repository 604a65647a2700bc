"""Noise of long clips: that of a short one first, then the same frames again in another order."""

import pytest
import torch

from lavie.inference.long_noise import repeating_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("frames", (1, 9, 16))
def test_up_to_a_window_it_is_plain_noise(frames):
    expected = torch.randn(4, frames, 3, 5, generator=generator())
    assert torch.equal(repeating_noise((4, frames, 3, 5), 16, generator()), expected)


def test_every_aligned_window_holds_the_same_noise_in_another_order():
    noise = repeating_noise((2, 50, 3, 5), 16, generator())
    first = torch.randn(2, 16, 3, 5, generator=generator())
    assert torch.equal(noise[:, :16], first)
    keys = [frame.sum().item() for frame in noise.unbind(1)]
    for begin in range(0, 33, 4):
        assert sorted(keys[begin : begin + 16]) == sorted(keys[:16])
    assert keys[16:32] != keys[:16]
    # A group of four stays where it was, one window later.
    for begin in range(16, 46):
        group = (begin - 16) // 4 * 4
        assert keys[begin] in keys[group : group + 4]


def test_groups_of_small_windows_are_pairs():
    keys = [frame.sum().item() for frame in repeating_noise((1, 12, 2, 2), 6, generator(1)).unbind(1)]
    assert [sorted(keys[i : i + 2]) for i in (6, 8, 10)] == [sorted(keys[i : i + 2]) for i in (0, 2, 4)]


def test_the_generator_decides_noise_and_order():
    one, same, other = (repeating_noise((1, 40, 2, 2), 16, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
