"""Clips and images of a batch lie in the folded batch where `Frames` says, and come back from there."""

import pytest
import torch

from lavie.models.frames import Frames
from tests.models.by_hand import randn

CASES = pytest.mark.parametrize("video,images", ((3, 0), (3, 2), (0, 2), (1, 1)))


@CASES
def test_folding(video, images):
    """Row by row: the frames of all clips, then the images of all clips; `unfold` takes them back."""
    frames, sample = Frames(video, images), randn(2, 4, video + images, 3, 5)
    rows = [sample[b, :, f] for b in range(2) for f in range(video)]
    rows += [sample[b, :, video + i] for b in range(2) for i in range(images)]
    folded = frames.fold(sample)
    assert frames.total == video + images and torch.equal(folded, torch.stack(rows))
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(frames.unfold(folded), sample)


@CASES
def test_splitting(video, images):
    frames, x = Frames(video, images), randn(2 * (video + images), 5, 4)
    clips, alone = frames.split(x)
    assert clips.shape == (2, video, 5, 4) and alone.shape == (2, images, 5, 4)
    for b in range(2):
        assert torch.equal(clips[b], x[b * video : (b + 1) * video])
        assert torch.equal(alone[b], x[2 * video + b * images : 2 * video + (b + 1) * images])
    assert torch.equal(frames.join(clips, alone), x)


def test_a_clip_alone_has_no_images_and_nothing_to_pool():
    assert Frames(3, 2, True).clip == Frames(3, 0, False)


def test_clips_that_lie_channels_last_are_not_copied():
    sample = randn(2, 3, 4, 5, 6).permute(0, 4, 1, 2, 3)
    assert Frames(3, 0).fold(sample).data_ptr() == sample.data_ptr()
