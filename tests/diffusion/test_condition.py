"""Which key frame a frame of the interpolated clip is given."""

import pytest
import torch

from lavie.diffusion.condition import key_frame_of, spread_key_frames


def test_the_released_mapping():
    """Frame 0 three times, the inner frames four times, the last one twice."""
    expected = [min((i + 1) // 4, 15) for i in range(61)]
    assert key_frame_of(61, 4).tolist() == expected
    assert [expected.count(k) for k in range(16)] == [3] + [4] * 14 + [2]


@pytest.mark.parametrize("interval", (2, 3, 4, 5, 8))
def test_the_nearest_key_frame_the_earlier_of_two(interval):
    frames = 3 * interval + 1
    nearest = [min(range(4), key=lambda k: (abs(k * interval - i), k)) for i in range(frames)]
    assert key_frame_of(frames, interval).tolist() == nearest


def test_spreading_keeps_each_key_frame_in_its_place():
    keys = torch.randn(2, 3, 4, 5, 6)
    spread = spread_key_frames(keys, 4)
    assert spread.shape == (2, 3, 13, 5, 6)
    assert torch.equal(spread[:, :, ::4], keys)


def test_clips_end_with_a_key_frame():
    with pytest.raises(ValueError, match=r"60 frames with a key frame every 4: wanted n \* 4 \+ 1"):
        key_frame_of(60, 4)
