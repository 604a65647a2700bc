"""What each position holds: its samples in their orders, spares where one cannot be read, and what joins the clip."""

import itertools
import logging
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavie.config.data import DegradationConfig
from lavie.data.feed import rows
from lavie.data.feed.loader import build_loader, fixed_batches
from lavie.data.feed.rows import ClipRows
from lavie.data.feed.share import Share
from lavie.data.media.degrade import degrade
from lavie.data.order.datasets import load_datasets
from lavie.data.shards.index import load_index
from lavie.errors import DataError
from lavie.seeds import numpy_generator
from tests.data.datasets import damage, pack_media, png, write_media, write_ramp
from tests.data.feed.loading import MOVING, assert_same, small, take

config = partial(small, num_frames=8, num_images=2)


@pytest.mark.parametrize("num_workers", (0, 1))
def test_damaged_samples_are_replaced_and_reported_and_others_stay(demo, tmp_path, num_workers):
    shutil.copytree(demo / "train", tmp_path / "train")
    index = load_index((str(tmp_path / "train"),))
    bad = {index.videos[3].key, index.images[2].key}
    damage(tmp_path / "train", bad)
    clean, data = config(demo / "train"), config(tmp_path / "train", num_workers=num_workers)
    share = Share(seed=0, train_batch_size=4)
    expected = list(itertools.islice(build_loader(clean, clean.train, share), 6))
    batches = list(itertools.islice(build_loader(data, data.train, share), 6))
    dropped = []
    for before, after in zip(expected, batches, strict=True):
        for row in range(4):
            for place in range(3):
                frames = slice(0, 8) if place == 0 else slice(7 + place, 8 + place)
                if before["keys"][row][place] in bad:
                    assert after["keys"][row][place] not in bad
                    dropped.append((before["keys"][row][place], int(before["positions"][row])))
                else:
                    assert after["keys"][row][place] == before["keys"][row][place]
                    assert torch.equal(after["pixels"][row, frames], before["pixels"][row, frames])
    reported = [d for batch in batches for d in batch["dropped"]]
    # A spare may be a damaged one in its turn, and is reported again.
    assert [entry for entry, _ in itertools.groupby((d["key"], d["position"]) for d in reported)] == dropped
    assert {key for key, _ in dropped} == bad
    assert all("SHA-256 differs" in d["reason"] and "00000.tar" in d["reason"] for d in reported)


@pytest.mark.parametrize("num_workers", (0, 1))
def test_excluded_samples_have_the_spares_of_damaged_ones(demo, tmp_path, num_workers):
    shutil.copytree(demo / "train", tmp_path / "train")
    index = load_index((str(tmp_path / "train"),))
    bad = {index.videos[3].key, index.images[2].key}
    data = config(tmp_path / "train", num_workers=num_workers, exclude=sorted(bad))
    share = Share(seed=0, train_batch_size=4)
    excluding = list(itertools.islice(build_loader(data, data.train, share), 6))
    damage(tmp_path / "train", bad)
    damaged = config(tmp_path / "train", num_workers=num_workers)
    told = set()
    for given, wanted in zip(excluding, build_loader(damaged, damaged.train, share), strict=False):
        assert given["keys"] == wanted["keys"]
        assert torch.equal(given["pixels"], wanted["pixels"])
        assert [(d["key"], d["position"]) for d in given["dropped"]] == [
            (d["key"], d["position"]) for d in wanted["dropped"]
        ]
        told |= {d["key"] for d in given["dropped"] if "data.exclude leaves it out" in d["reason"]}
    assert told == bad


@pytest.mark.parametrize("num_workers", (0, 1))
def test_a_dataset_that_is_damaged_as_a_whole_stops_the_run(demo, tmp_path, num_workers):
    shutil.copytree(demo / "train", tmp_path / "train")
    damage(tmp_path / "train", {s.key for s in load_index((str(tmp_path / "train"),))})
    data = config(tmp_path / "train", num_workers=num_workers)
    loader = build_loader(data, data.train, Share(seed=0, train_batch_size=1))
    with pytest.raises(DataError, match="position 0: 21 samples in a row cannot be read") as error:
        next(loader)
    del loader  # else the traceback keeps the worker until torch gives up waiting for it
    assert "Traceback" not in str(error.value)


def test_a_shard_lost_during_the_run_is_reported(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    data = config(tmp_path / "train")
    rows = ClipRows(load_datasets(data, data.train), data, seed=0)
    (tmp_path / "train" / "00000.tar").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        rows.row(0)


def test_a_dataset_that_cannot_serve_the_configuration(demo, tmp_path):
    write_ramp(tmp_path / "videos", frames=8)
    with pytest.raises(DataError, match=r"data\.num_images is 2: set data\.num_images=0"):
        take(config(tmp_path / "videos"), 1)
    with pytest.raises(DataError, match=r"1 of 1 videos hold no clip of 9 frames at 8 fps.*--num-frames 9 --fps 8"):
        take(config(tmp_path / "videos", num_frames=9, num_images=0), 1)
    with pytest.raises(DataError, match="hold no clip of 8 frames at frame stride 2"):
        take(config(tmp_path / "videos", fps=None, frame_stride=2, num_images=0), 1)


def test_images_alone_are_no_dataset(tmp_path):
    pack_media(tmp_path, {f"i{i}": png(np.zeros((32, 32, 3), np.uint8)) for i in range(3)})
    with pytest.raises(DataError, match="no videos among 3 samples"):
        take(config(tmp_path), 1)


def test_small_sources_are_left_out_and_named(tmp_path, caplog):
    write_media(tmp_path, v1=(64, 48), v2=(64, 32), v3=(48, 64), i1=(40, 90), i2=(48, 48))
    with caplog.at_level(logging.INFO, "lavie"):
        rows = take(config(tmp_path, num_images=1, min_size=48), 4)
    by_key = {s.key: s for s in load_index((str(tmp_path),))}
    assert {min(by_key[k].width, by_key[k].height) for row in rows for k in row[1]} == {48}
    assert {by_key[k].caption for row in rows for k in row[1]} == {"v1", "v3", "i2"}
    small = next(s for s in load_index((str(tmp_path),)) if min(s.width, s.height) < 48)
    assert "2 of 5 samples are left out, whose shorter side is below data.min_size 48 (first: " in caplog.text
    assert f"{small.key}, {small.width} x {small.height}" in caplog.text
    with pytest.raises(DataError, match=r"5 of 5 samples .* data\.min_size 49 .*none is left"):
        take(config(tmp_path, min_size=49), 1)
    write_media(tmp_path / "mixed", v1=(64, 32), i1=(64, 48))
    with pytest.raises(DataError, match=r"no videos among 1 samples of at least data\.min_size 48 pixels"):
        take(config(tmp_path / "mixed", min_size=48), 1)


@pytest.mark.slow
def test_a_share_of_the_rows_are_moving_images(demo):
    data = config(demo / "train", **MOVING, moving_images=0.3)
    rows = take(data, 20, batch=5)
    samples = {s.key: s for s in load_index(data.train)}
    kinds = [samples[row[1][0]].kind for row in rows]
    assert 20 <= kinds.count("image") <= 40
    assert all(row[3].shape == (8, 16, 16, 3) and row[2] == [samples[row[1][0]].caption] for row in rows)
    moving = [row[3].float() for row, kind in zip(rows, kinds, strict=True) if kind == "image"]
    assert sum((clip[1:] != clip[:-1]).any() for clip in moving) > 0.9 * len(moving)
    # The other rows are what they are without.
    plain = take(config(demo / "train", **MOVING), 20, batch=5)
    for row, other, kind in zip(rows, plain, kinds, strict=True):
        if kind == "video":
            assert_same([row], [other])


def test_moving_images_follow_their_own_order(demo):
    rows = take(config(demo / "train", **MOVING, moving_images=1), 4, batch=5)
    keys = [row[1][0] for row in rows]
    assert len(set(keys[:10])) == len(set(keys[10:])) == 10
    assert keys[:10] != keys[10:]
    assert_same(rows, take(config(demo / "train", **MOVING, moving_images=1, num_workers=1), 4, batch=5))
    assert_same(rows[10:], take(config(demo / "train", **MOVING, moving_images=1), 2, batch=5, start_step=2))


def test_a_damaged_moving_image_is_replaced_and_reported(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    bad = load_index((str(tmp_path / "train"),)).images[2].key
    damage(tmp_path / "train", {bad})
    data = config(tmp_path / "train", **MOVING, moving_images=1)
    (batch,) = fixed_batches(data, data.train, Share(seed=0, train_batch_size=10), num_batches=1)
    assert {d["key"] for d in batch["dropped"]} == {bad}
    assert [bad] not in batch["keys"]
    assert batch["pixels"].shape == (10, 8, 16, 16, 3)


def test_moving_images_need_images_and_may_do_without_videos(tmp_path):
    write_media(tmp_path / "videos", v=(32, 32))
    write_media(tmp_path / "images", i=(32, 32))
    with pytest.raises(DataError, match=r"no images, but data\.moving_images is 0\.5: set data\.moving_images=0"):
        take(config(tmp_path / "videos", **MOVING, moving_images=0.5), 1)
    with pytest.raises(DataError, match=r"no videos among 1 samples.*data\.moving_images is 0\.5; 1 needs none"):
        take(config(tmp_path / "images", **MOVING, moving_images=0.5), 1)
    assert take(config(tmp_path / "images", **MOVING, moving_images=1), 1)[0][1][0].endswith("i")


def test_low_resolution_is_the_degraded_clip(demo):
    data, how = config(demo / "train", **MOVING, moving_images=0.5), DegradationConfig()
    rows = take(data, 3, batch=4, degradation=how)
    for position, _, _, pixels, low in rows:
        assert low.dtype == torch.uint8
        assert low.shape == (8, 4, 4, 3)
        expected = degrade(pixels.numpy(), how, numpy_generator(0, "degradation", position))
        np.testing.assert_array_equal(low.numpy(), expected)
    assert_same([row[:4] for row in rows], take(data, 3, batch=4))
    workers = config(demo / "train", **MOVING, moving_images=0.5, num_workers=1)
    assert_same(rows, take(workers, 3, batch=4, degradation=how))
    assert_same(rows[4:], take(data, 2, world_size=2, batch=2, start_step=1, degradation=how))


@pytest.mark.parametrize("largest, dali, clip", ((100, "gpu", 6144), (10_000, "gpu", 10_000), (10_000, None, 6144)))
def test_a_row_has_room_for_its_parts(demo, monkeypatch, largest, dali, clip):
    """By hand: 8 frames of 16 x 16 in three colours are 6144 bytes, and an image an eighth of that."""
    data = config(demo / "train", height=16, width=16)
    sizes = SimpleNamespace(videos=SimpleNamespace(column=lambda name: np.array([50, largest])))
    for limit in (1 << 20, 8000):
        monkeypatch.setattr(rows, "MAX_FILE", limit)
        given = [SimpleNamespace(index=sizes)]
        expected = max(6144, min(clip, limit)) + 2 * 768
        assert rows._row_bytes(given, data, None, dali) == expected
        low = DegradationConfig(scale=4)
        assert rows._row_bytes(given, data, low, dali) == expected + 8 * 48
