"""The readers of samples: which frames a clip shows, where they are cut, and whose business decoding is."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch

from lavie.data.decoders.clip import DecodedClip, EncodedClip
from lavie.data.feed import sample as sample_module
from lavie.data.feed.sample import CacheReader, MovingImageReader, PixelReader
from lavie.data.media.decode import decode_frames
from lavie.data.media.encode import encode_mp4, encode_vp9
from lavie.data.media.image import decode_image
from lavie.data.shards.index import load_index
from lavie.data.shards.member import read_member
from lavie.errors import DataError
from tests.data.datasets import pack_media, png, waves, write_media, write_ramp
from tests.data.feed.loading import MOVING, small, take
from tests.data.media.videos import encode, with_matrix

config = partial(small, num_frames=8, num_images=2)


def test_crops_and_clip_starts_vary_with_the_position(tmp_path):
    write_ramp(tmp_path, frames=12)
    rows = take(config(tmp_path, num_frames=4, num_images=0, height=16, width=32), 4, batch=8)
    first = {round(row[3][0].float().mean().item() / 20) for row in rows}
    assert first == set(range(9))


def test_variable_rate_clips_go_by_their_times(tmp_path):
    write_ramp(tmp_path, frames=8, times=[0, 0.125, 0.25, 0.26, 0.27, 0.375, 0.5, 0.625])
    row = take(config(tmp_path, num_frames=6, num_images=0), 1, batch=1)[0]
    shown = (row[3].float().mean((1, 2, 3)) / 20).round().int().tolist()
    assert shown == [0, 1, 4, 5, 6, 7]


def test_patches_are_cut_at_the_sources_own_resolution(tmp_path):
    write_media(tmp_path, v=(64, 48), i=(70, 40))
    row = take(config(tmp_path, num_images=1, height=16, width=24, crop="patch"), 1, batch=1)[0]
    index = load_index((str(tmp_path),))
    for frame, sample in ((row[3][0], index.videos[0]), (row[3][8], index.images[0])):
        data = read_member(sample)
        whole = decode_image(data) if sample.kind == "image" else decode_frames(data, [0])[0]
        windows = np.lib.stride_tricks.sliding_window_view(whole, (16, 24, 3))[:, :, 0]
        assert (windows == frame.numpy()).all((2, 3, 4)).sum() == 1


@pytest.mark.parametrize("matrix", ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, 1)))
def test_a_round_ball_is_round_in_index_and_training_whatever_the_pixels_and_the_turn(tmp_path, matrix):
    """PAL's 16:9 in small, 180 x 144 stored and 256 x 144 shown, upright, turned and mirrored."""
    y, x = np.mgrid[:144, :180]
    ball = ((x - 90) * 64 / 45) ** 2 + (y - 72) ** 2 < 57**2
    frames = [np.repeat(np.uint8(255) * ball.astype(np.uint8)[..., None], 3, 2)] * 8
    sample = one_sample(tmp_path, with_matrix(encode(frames, tags={"sample_aspect_ratio": Fraction(64, 45)}), matrix))
    height, width = (256, 144) if matrix[1] else (144, 256)
    assert (sample.height, sample.width) == (height, width)

    # The whole picture in half its size, then a square cut of it.
    for size in ((height // 2, width // 2), (72, 72)):
        data = config(tmp_path, height=size[0], width=size[1])
        pixels = PixelReader(data, 0, centred=True).read(sample, 0, None).tensors["pixels"]
        shown = pixels[3, ..., 0].numpy() > 127
        assert abs(int(shown.any(0).sum()) - int(shown.any(1).sum())) <= 2
        assert abs(int(shown.any(0).sum()) - 57) <= 2


def one_sample(folder, media):
    """Pack one media file, and return its sample."""
    (sample,) = load_index((str(pack_media(folder, {"x": media})),))
    return sample


def test_an_image_is_cut_as_a_clip_of_one_frame(tmp_path):
    sample = one_sample(tmp_path, png(waves(0, 1, 64, 64)[0]))
    reader = PixelReader(config(tmp_path), 0)
    contents = [reader.read(sample, position, None) for position in (0, 0, 1)]
    first, again, other = (content.tensors["pixels"] for content in contents)
    assert first.shape == (1, 24, 32, 3)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(content.clip is None for content in contents)


def test_one_pass_scales_clips_alone(tmp_path):
    video, image = (
        one_sample(tmp_path / kind, media)
        for kind, media in (("v", encode_mp4(waves(0), 8)), ("i", png(waves(0, 1)[0])))
    )
    one, two = (PixelReader(config(tmp_path, resampler=name), 0) for name in ("swscale-1", "pillow-1"))
    clips = [reader.read(video, 0, None).tensors["pixels"].float() for reader in (one, two)]
    assert not torch.equal(*clips)
    assert (clips[0] - clips[1]).abs().mean() < 3
    assert torch.equal(*(reader.read(image, 0, None).tensors["pixels"] for reader in (one, two)))


def test_with_dali_a_clip_is_the_whole_file_or_says_why_not(tmp_path):
    plain, dali = (PixelReader(config(tmp_path), 3, dali=device) for device in (None, "cpu"))
    served = one_sample(tmp_path / "vp9", encode_vp9(waves(0), 8))
    content = dali.read(served, 5, None)
    assert content.tensors["pixels"].shape == (0, 24, 32, 3)
    assert isinstance(content.clip, EncodedClip)
    assert content.clip.data == read_member(served)
    assert (content.clip.key, content.clip.height, content.clip.width) == (served.key, 48, 64)
    # Its frames and its place are those that PyAV would show.
    frames = decode_frames(content.clip.data, content.clip.indices)
    expected = sample_module.fit(frames, 24, 32, content.clip.u, content.clip.v)
    np.testing.assert_array_equal(plain.read(served, 5, None).tensors["pixels"].numpy(), expected)

    refused = one_sample(tmp_path / "h264", encode_mp4(waves(0), 8))
    content = dali.read(refused, 5, None)
    assert content.clip == DecodedClip(refused.key, "DALI does not decode h264 on the CPU")
    assert torch.equal(content.tensors["pixels"], plain.read(refused, 5, None).tensors["pixels"])


def test_an_image_under_a_moving_camera_is_never_dalis(tmp_path):
    sample = one_sample(tmp_path, png(waves(0, frames=1)[0]))
    data = config(tmp_path, **MOVING, moving_images=1)
    plain, dali = (MovingImageReader(data, 3, dali=dali).read(sample, 5, None) for dali in (False, True))
    assert plain.clip is None
    assert dali.clip == DecodedClip(sample.key, "it is an image under a moving camera")
    assert plain.tensors["pixels"].shape == (8, 16, 16, 3)
    assert torch.equal(plain.tensors["pixels"], dali.tensors["pixels"])


@pytest.mark.parametrize("verify, found", (("always", 320), ("never", 0), ("sampled", 20)))
def test_hashes_are_compared_as_often_as_asked(tmp_path, monkeypatch, verify, found):
    """The rule is the same for files, moving images and entries of a cache, and picks the same positions each time."""
    compared = []

    def read(sample, verify=True, timeout=None):
        compared.append(verify)
        raise DataError("not now")

    class OneEntry:
        def read(self, sample, cut, *, verify):
            compared.append(verify)
            return {"mean": torch.full((1,), cut)}

    monkeypatch.setattr(sample_module, "read_member", read)
    data = config(tmp_path, verify=verify, cuts=2)
    sample = one_sample(tmp_path, png(waves(0, frames=1)[0]))
    for reader in (PixelReader(data, 0), MovingImageReader(data, 0)):
        for _ in range(2):
            for position in range(320):
                with pytest.raises(DataError, match="not now"):
                    reader.read(sample, position, None)
    reader = CacheReader(OneEntry(), data, 0)
    assert all(reader.read(sample, position, 1).tensors["mean"] == 1 for position in range(320))
    visits = [compared[start : start + 320] for start in range(0, len(compared), 320)]
    assert len(visits) == 5
    assert visits[0] == visits[1]
    assert visits[2] == visits[3]
    assert all(visit.count(True) == pytest.approx(found, abs=10 if verify == "sampled" else 0) for visit in visits)
