"""The batches: the same samples and pixels on any number of ranks and workers and from any step; damage is reported."""

import io
import itertools
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lavie.config import DataConfig
from lavie.data.encode import encode_mp4
from lavie.data.index import load_index
from lavie.data.loader import ClipDataset, build_loader, fixed_batches
from lavie.data.pack import pack_entries
from lavie.data.sources import Entry
from lavie.errors import DataError


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


def take(data, steps, *, world_size=1, batch=4, accumulation=1, start_step=0, seed=0):
    """Every row of `steps` steps as (position, keys, captions, pixels), over all ranks, in the order of positions."""
    rows = []
    loaders = [
        build_loader(
            data,
            data.train,
            seed=seed,
            train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            rank=rank,
            world_size=world_size,
            start_step=start_step,
        )
        for rank in range(world_size)
    ]
    for _ in range(steps):
        for loader in loaders:
            for b in itertools.islice(loader, accumulation):
                rows += zip(b["positions"].tolist(), b["keys"], b["captions"], b["pixels"], strict=True)
    return rows


def assert_same(a, b):
    assert [row[:3] for row in a] == [row[:3] for row in b]
    assert all(torch.equal(x[3], y[3]) for x, y in zip(a, b, strict=True))


def write_videos(out, *, count=1, frames=8, times=None):
    pixels = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.full((32, 32, 3), 20, np.uint8)
    media = encode_mp4(pixels, 8) if times is None else encode_mp4(pixels, times=times)
    pack_entries((Entry(f"v{i}", f"v{i}", lambda: media, "text") for i in range(count)), out, num_frames=1, fps=8)


def test_a_batch_is_as_documented(demo):
    data = config(demo / "train")
    steps = {"train_batch_size": 3, "gradient_accumulation_steps": 2, "start_step": 5}
    batch = next(build_loader(data, data.train, seed=0, rank=1, world_size=2, **steps))
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
    kwargs = {"seed": 0, "train_batch_size": 4, "gradient_accumulation_steps": 1, "rank": 0, "world_size": 1}
    expected = list(itertools.islice(build_loader(clean, clean.train, **kwargs), 6))
    batches = list(itertools.islice(build_loader(data, data.train, **kwargs), 6))
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
    loader = build_loader(
        data, data.train, seed=0, train_batch_size=1, gradient_accumulation_steps=1, rank=0, world_size=1
    )
    with pytest.raises(DataError, match="position 0: 21 samples in a row cannot be read") as error:
        next(loader)
    del loader  # else the traceback keeps the worker until torch gives up waiting for it
    assert "Traceback" not in str(error.value)


def test_a_shard_lost_during_the_run_is_reported(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    data = config(tmp_path / "train")
    dataset = ClipDataset(load_index(data.train), data, seed=0)
    (tmp_path / "train" / "00000.tar").unlink()
    assert "cannot be read" in str(dataset[0])


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
    pack_entries((Entry(f"i{i}", "i", file.getvalue, "text") for i in range(3)), tmp_path, num_frames=8, fps=8)
    with pytest.raises(DataError, match="no videos among 3 samples"):
        take(config(tmp_path), 1)


def test_fixed_batches_are_fixed_and_split_among_ranks(demo):
    data = config(demo / "validation")
    kwargs = {"seed": 0, "train_batch_size": 2}
    whole = fixed_batches(data, data.train, **kwargs, num_batches=6, rank=0, world_size=1)
    parts = [fixed_batches(data, data.train, **kwargs, num_batches=3, rank=rank, world_size=2) for rank in range(2)]
    assert [b["positions"].tolist() for b in whole] == [[i, i + 1] for i in range(0, 12, 2)]
    for a, b in zip(whole, parts[0] + parts[1], strict=True):
        assert torch.equal(a["pixels"], b["pixels"])
        assert (a["keys"], a["captions"]) == (b["keys"], b["captions"])


def test_fixed_batches_cut_the_centre(tmp_path):
    pixels = np.zeros((2, 32, 96, 3), np.uint8)
    pixels[:, :, 32:64] = 200
    entry = Entry("v", "v", lambda: encode_mp4(pixels, 8), "text")
    pack_entries([entry], tmp_path, num_frames=2, fps=8)
    data = config(tmp_path, num_frames=2, num_images=0, height=32, width=32)
    batch = fixed_batches(data, data.train, seed=0, train_batch_size=1, num_batches=1, rank=0, world_size=1)[0]
    assert (batch["pixels"][..., 4:-4, :] > 190).all()
