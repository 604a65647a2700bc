"""The batches: the same samples and pixels on any number of ranks and workers and from any step; damage is reported."""

import io
import itertools
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lavie.config.data import DataConfig, DegradationConfig
from lavie.data.feed.loader import build_loader, fixed_batches
from lavie.data.feed.rows import ClipRows
from lavie.data.feed.share import Share
from lavie.data.media.decode import decode_frames, decode_image
from lavie.data.media.degrade import degrade
from lavie.data.media.encode import encode_mp4
from lavie.data.order.datasets import load_datasets
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.data.shards.index import load_index
from lavie.data.shards.member import read_member
from lavie.errors import DataError
from lavie.seeds import numpy_generator


def config(folder, **changes) -> DataConfig:
    values = {
        "train": str(folder),
        "num_frames": 8,
        "num_images": 2,
        "height": 24,
        "width": 32,
        "fps": 8,
        "num_workers": 0,
    }
    return DataConfig(**{**values, **changes})


def take(data, steps, *, world_size=1, batch=4, accumulation=1, start_step=0, seed=0, degradation=None):
    """Every row of `steps` steps as (position, keys, captions, pixels), over all ranks, in the order of positions.

    With `degradation`, the low resolution is a fifth.
    """
    rows = []
    loaders = [
        build_loader(
            data,
            data.train,
            Share(
                seed=seed,
                train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                rank=rank,
                world_size=world_size,
            ),
            start_step=start_step,
            degradation=degradation,
        )
        for rank in range(world_size)
    ]
    for _ in range(steps):
        for loader in loaders:
            for b in itertools.islice(loader, accumulation):
                low = [b["low_res"]] if degradation else []
                rows += zip(b["positions"].tolist(), b["keys"], b["captions"], b["pixels"], *low, strict=True)
    return rows


def assert_same(a, b):
    assert [row[:3] for row in a] == [row[:3] for row in b]
    assert all(torch.equal(s, t) for x, y in zip(a, b, strict=True) for s, t in zip(x[3:], y[3:], strict=True))


def write_videos(out, *, count=1, frames=8, times=None):
    pixels = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.full((32, 32, 3), 20, np.uint8)
    media = encode_mp4(pixels, 8) if times is None else encode_mp4(pixels, times=times)
    pack_files((CaptionedFile(f"v{i}", f"v{i}", lambda: media, "text") for i in range(count)), out, num_frames=1, fps=8)


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


@pytest.mark.parametrize(
    ("world_size", "batch", "accumulation"), [(1, 2, 4), (2, 4, 1), (2, 2, 2), (4, 2, 1), (8, 1, 1)]
)
def test_ranks_and_accumulation_do_not_change_the_samples(demo, world_size, batch, accumulation):
    data = config(demo / "train")
    expected = take(data, 4, batch=8)
    assert [row[0] for row in expected] == list(range(32))
    assert_same(expected, take(data, 4, world_size=world_size, batch=batch, accumulation=accumulation))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_the_samples(demo, num_workers):
    expected = take(config(demo / "train"), 8, batch=2, start_step=1)
    assert_same(expected, take(config(demo / "train", num_workers=num_workers), 8, batch=2, start_step=1))


@pytest.mark.parametrize("start_step", [1, 4, 7])
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


def test_crops_and_clip_starts_vary_with_the_position(tmp_path):
    write_videos(tmp_path, frames=12)
    rows = take(config(tmp_path, num_frames=4, num_images=0, height=16, width=32), 4, batch=8)
    first = {round(row[3][0].float().mean().item() / 20) for row in rows}
    assert first == set(range(9))


def test_variable_rate_clips_go_by_their_times(tmp_path):
    write_videos(tmp_path, frames=8, times=[0, 0.125, 0.25, 0.26, 0.27, 0.375, 0.5, 0.625])
    row = take(config(tmp_path, num_frames=6, num_images=0), 1, batch=1)[0]
    shown = (row[3].float().mean((1, 2, 3)) / 20).round().int().tolist()
    assert shown == [0, 1, 4, 5, 6, 7]


def damage(folder, keys):
    tar = folder / "00000.tar"
    data = bytearray(tar.read_bytes())
    for sample in load_index((str(folder),)):
        if sample.key in keys:
            data[sample.offset + sample.size // 2] ^= 1
    tar.write_bytes(data)


@pytest.mark.parametrize("num_workers", [0, 1])
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


@pytest.mark.parametrize("num_workers", [0, 1])
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
    write_videos(tmp_path / "videos", frames=8)
    with pytest.raises(DataError, match=r"data\.num_images is 2: set data\.num_images=0"):
        take(config(tmp_path / "videos"), 1)
    with pytest.raises(DataError, match=r"1 of 1 videos hold no clip of 9 frames at 8 fps.*--num-frames 9 --fps 8"):
        take(config(tmp_path / "videos", num_frames=9, num_images=0), 1)
    with pytest.raises(DataError, match="hold no clip of 8 frames at frame stride 2"):
        take(config(tmp_path / "videos", fps=None, frame_stride=2, num_images=0), 1)


def test_images_alone_are_no_dataset(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "png")
    pack_files((CaptionedFile(f"i{i}", "i", file.getvalue, "text") for i in range(3)), tmp_path, num_frames=8, fps=8)
    with pytest.raises(DataError, match="no videos among 3 samples"):
        take(config(tmp_path), 1)


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
    entry = CaptionedFile("v", "v", lambda: encode_mp4(pixels, 8), "text")
    pack_files([entry], tmp_path, num_frames=2, fps=8)
    data = config(tmp_path, num_frames=2, num_images=0, height=32, width=32)
    batch = fixed_batches(data, data.train, Share(seed=0, train_batch_size=1), num_batches=1)[0]
    assert (batch["pixels"][..., 4:-4, :] > 190).all()


def write_media(out, **sizes):
    """Videos `v...` and images `i...` of the sizes (width, height) given, each with its key for a caption."""
    rng = np.random.default_rng(0)

    def media(name, width, height):
        if name.startswith("v"):
            return encode_mp4(rng.integers(0, 256, (8, height, width, 3), dtype=np.uint8), 8)
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "png")
        return file.getvalue()

    files = {name: media(name, *size) for name, size in sizes.items()}
    entries = (CaptionedFile(name, name, lambda data=data: data, name) for name, data in files.items())
    pack_files(entries, out, num_frames=8, fps=8)


def test_patches_are_cut_at_the_sources_own_resolution(tmp_path):
    write_media(tmp_path, v=(64, 48), i=(70, 40))
    row = take(config(tmp_path, num_images=1, height=16, width=24, crop="patch"), 1, batch=1)[0]
    index = load_index((str(tmp_path),))
    for frame, sample in ((row[3][0], index.videos[0]), (row[3][8], index.images[0])):
        data = read_member(sample)
        whole = decode_image(data) if sample.kind == "image" else decode_frames(data, [0])[0]
        windows = np.lib.stride_tricks.sliding_window_view(whole, (16, 24, 3))[:, :, 0]
        assert (windows == frame.numpy()).all((2, 3, 4)).sum() == 1


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


MOVING = {"num_images": 0, "crop": "patch", "height": 16, "width": 16, "camera_speed": 2.0}


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
    assert len(set(keys[:10])) == len(set(keys[10:])) == 10 and keys[:10] != keys[10:]
    assert_same(rows, take(config(demo / "train", **MOVING, moving_images=1, num_workers=1), 4, batch=5))
    assert_same(rows[10:], take(config(demo / "train", **MOVING, moving_images=1), 2, batch=5, start_step=2))


def test_a_damaged_moving_image_is_replaced_and_reported(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    bad = load_index((str(tmp_path / "train"),)).images[2].key
    damage(tmp_path / "train", {bad})
    data = config(tmp_path / "train", **MOVING, moving_images=1)
    (batch,) = fixed_batches(data, data.train, Share(seed=0, train_batch_size=10), num_batches=1)
    assert {d["key"] for d in batch["dropped"]} == {bad} and [bad] not in batch["keys"]
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
        assert low.dtype == torch.uint8 and low.shape == (8, 4, 4, 3)
        expected = degrade(pixels.numpy(), how, numpy_generator(0, "degradation", position))
        np.testing.assert_array_equal(low.numpy(), expected)
    assert_same([row[:4] for row in rows], take(data, 3, batch=4))
    workers = config(demo / "train", **MOVING, moving_images=0.5, num_workers=1)
    assert_same(rows, take(workers, 3, batch=4, degradation=how))
    assert_same(rows[4:], take(data, 2, world_size=2, batch=2, start_step=1, degradation=how))


def test_fixed_batches_hold_the_low_resolution(demo):
    data = config(demo / "validation", **MOVING)
    share, how = Share(seed=0, train_batch_size=2), DegradationConfig(filters=("box",), scale=2)
    (batch,) = fixed_batches(data, data.train, share, num_batches=1, degradation=how)
    assert batch["low_res"].shape == (2, 8, 8, 8, 3)
    assert "low_res" not in fixed_batches(data, data.train, share, num_batches=1)[0]
