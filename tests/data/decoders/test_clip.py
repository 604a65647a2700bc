"""The reference decoder shows the frames, the cut and the range that the loader's workers make."""

import numpy as np
import torch

from lavie.data.decoders.clip import EncodedClip, PyAVDecoder
from lavie.data.media.clips import fit
from lavie.data.media.decode import decode_frames
from lavie.data.media.encode import encode_mp4
from tests.data.decoders.videos import shapes


def test_pyav_is_what_the_loader_makes():
    data = encode_mp4(shapes(12), 24)
    clip = EncodedClip("clip", data, np.array([1, 4, 7]), 48, 64, False, 0.2, 0.9)
    (pixels,) = PyAVDecoder(24, 24, "cover")([clip])
    expected = fit(decode_frames(data, [1, 4, 7]), 24, 24, 0.2, 0.9)
    torch.testing.assert_close(pixels, torch.from_numpy(expected).permute(0, 3, 1, 2) / 127.5 - 1, rtol=0, atol=0)
    assert pixels.min() >= -1 and pixels.max() <= 1
