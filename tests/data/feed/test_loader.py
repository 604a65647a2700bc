"""The batches: the same samples and pixels on any number of ranks and processes, and from any step."""

from functools import partial

import numpy as np
import pytest
import torch

from lavie.config.data import DegradationConfig
from lavie.data.feed.loader import build_loader, fixed_batches
from lavie.data.feed.share import Share
from lavie.data.media.encode import encode_mp4
from lavie.data.shards.index import load_index
from tests.data.datasets import pack_media
from tests.data.feed.loading import MOVING, assert_same, small, take

config = partial(small, num_frames=8, num_images=2)


def test_a_batch_is_as_documented(demo):
    data = config(demo / "train")
    share = Share(seed=0, train_batch_size=3, gradient_accumulation_steps=2, rank=1, world_size=2)
    batch = next(build_loader(data, data.train, share, start_step=5))
    assert set(batch) == {"pixels", "captions", "positions", "keys", "dropped"}
    assert batch["pixels"].shape == (3, 10, 24, 32, 3)
    assert batch["pixels"].dtype == torch.uint8
    assert batch["positions"].dtype == torch.int64
    assert batch["positions"].tolist() == [66, 67, 68]
    assert [len(c) for c in batch["captions"]] == [len(k) for k in batch["keys"]] == [3, 3, 3]
    assert batch["dropped"] == []
    by_key = {s.key: s for s in load_index(data.train)}
    for keys, captions in zip(batch["keys"], batch["captions"], strict=True):
        assert [by_key[k].caption for k in keys] == captions
        assert [by_key[k].kind for k in keys] == ["video", "image", "image"]


@pytest.mark.parametrize("world_size, batch, accumulation", ((1, 2, 4), (2, 4, 1), (2, 2, 2), (4, 2, 1), (8, 1, 1)))
def test_ranks_and_accumulation_do_not_change_the_samples(demo, world_size, batch, accumulation):
    data = config(demo / "train")
    expected = take(data, 4, batch=8)
    assert [row[0] for row in expected] == list(range(32))
    assert_same(expected, take(data, 4, world_size=world_size, batch=batch, accumulation=accumulation))


@pytest.mark.parametrize("num_workers", (1, 2))
def test_workers_do_not_change_the_samples(demo, num_workers):
    expected = take(config(demo / "train"), 8, batch=2, start_step=1)
    assert_same(expected, take(config(demo / "train", num_workers=num_workers), 8, batch=2, start_step=1))


@pytest.mark.parametrize("start_step", (1, 4, 7))
def test_a_resumed_run_goes_on_with_the_tail(demo, start_step):
    data = config(demo / "train")
    whole = take(data, 9, batch=4)
    assert_same(whole[4 * start_step :], take(data, 9 - start_step, batch=4, start_step=start_step))


def test_every_epoch_shows_every_clip_and_every_image_once(demo):
    rows = take(config(demo / "train"), 6, batch=8)  # 48 clips and 96 images, of 24 and 10
    clips = [row[1][0] for row in rows]
    images = [key for row in rows for key in row[1][1:]]
    assert len(set(clips[:24])) == len(set(clips[24:])) == 24
    assert clips[:24] != clips[24:]
    assert all(len(set(images[i : i + 10])) == 10 for i in range(0, 90, 10))


def test_seed_changes_the_order(demo):
    data = config(demo / "train")
    assert [r[1] for r in take(data, 3, seed=0)] != [r[1] for r in take(data, 3, seed=1)]


def test_fixed_batches_are_fixed_and_split_among_ranks(demo):
    data = config(demo / "validation")
    shares = [Share(seed=0, train_batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    whole = fixed_batches(data, data.train, Share(seed=0, train_batch_size=2), num_batches=6)
    parts = [fixed_batches(data, data.train, share, num_batches=3) for share in shares]
    assert [b["positions"].tolist() for b in whole] == [[i, i + 1] for i in range(0, 12, 2)]
    for a, b in zip(whole, parts[0] + parts[1], strict=True):
        assert torch.equal(a["pixels"], b["pixels"])
        assert (a["keys"], a["captions"]) == (b["keys"], b["captions"])


def test_fixed_batches_cut_the_centre(tmp_path):
    pixels = np.zeros((2, 32, 96, 3), np.uint8)
    pixels[:, :, 32:64] = 200
    pack_media(tmp_path, {"v": encode_mp4(pixels, 8)}, num_frames=2)
    data = config(tmp_path, num_frames=2, num_images=0, height=32, width=32)
    batch = fixed_batches(data, data.train, Share(seed=0, train_batch_size=1), num_batches=1)[0]
    assert (batch["pixels"][..., 4:-4, :] > 190).all()


@pytest.mark.slow
def test_fixed_batches_hold_the_low_resolution(demo):
    data = config(demo / "validation", **MOVING)
    share, how = Share(seed=0, train_batch_size=2), DegradationConfig(filters=("box",), scale=2)
    (batch,) = fixed_batches(data, data.train, share, num_batches=1, degradation=how)
    assert batch["low_res"].shape == (2, 8, 8, 8, 3)
    assert "low_res" not in fixed_batches(data, data.train, share, num_batches=1)[0]
