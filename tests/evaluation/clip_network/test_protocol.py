import numpy as np
import pytest
import torch
from PIL import Image

from lavie.errors import DataError
from lavie.evaluation.clip_network.protocol import FrameProtocol, chosen, hash_of, prepare


@pytest.mark.parametrize("size", ((320, 512), (37, 50), (51, 38), (20, 20), (33, 32)))
def test_pixels_are_those_of_transformers_own_processor(size):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    wanted = theirs([Image.fromarray(frame) for frame in frames], return_tensors="pt").pixel_values
    torch.testing.assert_close(prepare(frames, FrameProtocol(side=32)), wanted)


def test_stretched_frames_show_all_of_the_picture():
    frame = np.zeros((1, 20, 60, 3), np.uint8)
    frame[:, :, :10], frame[:, :, -10:] = 255, 255
    black = -0.48145466 / 0.26862954
    assert prepare(frame, FrameProtocol(side=20))[0, 0].max() == pytest.approx(black)
    stretched = prepare(frame, FrameProtocol(side=20, fit="stretch"))[0, 0]
    assert stretched.shape == (20, 20)
    assert stretched[:, 0].min() == pytest.approx((1 - 0.48145466) / 0.26862954) == stretched[:, -1].min()


def test_frames_are_spread_from_the_first_to_the_last():
    assert chosen(5, FrameProtocol()).tolist() == [0, 1, 2, 3, 4]
    assert chosen(16, FrameProtocol(frames=4)).tolist() == [0, 5, 10, 15]
    assert chosen(16, FrameProtocol(frames=3)).tolist() == [0, 7, 15]
    assert chosen(5, FrameProtocol(frames=5)).tolist() == [0, 1, 2, 3, 4]
    assert chosen(5, FrameProtocol(frames=1)).tolist() == [2]
    with pytest.raises(DataError, match="3 frames: the protocol wants 4"):
        chosen(3, FrameProtocol(frames=4))


def test_everything_that_moves_a_number_moves_the_hash():
    whole = [
        FrameProtocol(),
        FrameProtocol(frames=1),
        FrameProtocol(fit="stretch"),
        FrameProtocol(side=336),
        FrameProtocol(mean=(0.5, 0.5, 0.5)),
    ]
    hashes = {hash_of(protocol=one.model_dump(), weights=w) for one in whole for w in ("a", "b")}
    assert len(hashes) == 10
