"""DALI in the loader feeds what PyAV feeds: the same samples and spares in the same order, and nearly the pixels."""

import itertools
import logging
import multiprocessing
import os
import shutil
import signal
from functools import partial

import numpy as np
import pytest
import torch

from lavie.data.decoders import choice as decoders
from lavie.data.decoders.dali import DaliDecoder
from lavie.data.feed.batches import Batches
from lavie.data.feed.decoded import DecodedBatches
from lavie.data.feed.loader import build_loader
from lavie.data.feed.share import Share
from lavie.data.media.decode import decode_frames, frame_times, read_frames
from lavie.data.media.encode import encode_mp4, encode_vp9
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.data.shards.index import load_index
from lavie.errors import ConfigError, DataError
from lavie.pixels import to_float
from lavie.testing import SHARED
from tests.data.datasets import damage, pack_media, png, waves
from tests.data.feed.loading import processes, small
from tests.markers import requires_shared

requires_dali = pytest.mark.skipif(decoders.missing_dali() is not None, reason="DALI is not installed")


config = partial(small, fps=4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Pack 12 VP9 videos of several sizes, of which `short` holds one clip only, 2 that DALI does not get, 5 images."""
    media = {f"v{i:02}": encode_vp9(waves(i, 20 + i, 48 + 2 * i, 64 + i % 3), 8) for i in range(11)}
    media["short"] = encode_vp9(waves(12, 7), 8)
    media["uneven"] = encode_mp4(waves(20), times=[0.13 * i + 0.05 * (i % 2) for i in range(20)])
    media["h264"] = encode_mp4(waves(21), 8)
    media |= {f"i{i}": png(np.full((40, 48, 3), (40 * i, 40 * i, 90), np.uint8)) for i in range(5)}
    return pack_media(tmp_path_factory.mktemp("shards"), media, num_frames=4)


def take(data, steps, *, world_size=1, batch=4, start_step=0):
    """Return the batches of `steps` steps over all ranks, by step and rank, and the loaders, which are closed."""
    loaders = [
        build_loader(
            data,
            data.train,
            Share(seed=3, train_batch_size=batch, rank=rank, world_size=world_size),
            start_step=start_step,
        )
        for rank in range(world_size)
    ]
    batches = [next(loader) for _ in range(steps) for loader in loaders]
    for loader in loaders:
        loader.close()
    return batches, loaders


def rows(batches):
    """Return (position, keys, captions) of each row, and all samples that were dropped."""
    fed = [r for b in batches for r in zip(b["positions"].tolist(), b["keys"], b["captions"], strict=True)]
    return fed, [d for b in batches for d in b["dropped"]]


def pixels(batches):
    """Return the pixels of each row, float (F + N, 3, H, W) in [-1, 1]."""
    return [to_float(row) if row.dtype == torch.uint8 else row for b in batches for row in b["pixels"]]


def assert_same(pyav, dali):
    assert rows(pyav) == rows(dali)
    for a, b in zip(pixels(pyav), pixels(dali), strict=True):
        difference = (a[:4] - b[:4]).abs() * 127.5
        # Two libraries' bicubic filters differ a little; images are the workers' either way.
        assert difference.mean() <= 0.6
        assert difference.max() <= 16
        assert torch.equal(a[4:], b[4:])


@requires_dali
@pytest.mark.parametrize("num_workers", (0, 1, 2))
def test_the_same_samples_with_any_number_of_workers(shards, num_workers, caplog):
    caplog.set_level(logging.INFO, "lavie")
    pyav, _ = take(config(shards, decoder="pyav"), 8)
    assert "data: clips are decoded by pyav: asked for" in caplog.text
    dali, (loader,) = take(config(shards, decoder="dali", num_workers=num_workers), 8)
    assert all(b["pixels"].shape == (4, 5, 3, 24, 32) and b["pixels"].dtype == torch.float32 for b in dali)
    assert_same(pyav, dali)
    # Frames are told apart by their brightness: neighbours differ by 8 levels of 255.
    means = [[row[:4].mean((1, 2, 3)) for row in pixels(b)] for b in (pyav, dali)]
    assert all((a - b).abs().max() * 127.5 < 0.5 for a, b in zip(*means, strict=True))
    # A worker is ahead, and so is the thread: what was read is at least what was taken.
    others = [key for _, (key, *_), _ in rows(pyav)[0] if load_codec(shards)[key] == "h264"]
    assert loader.decoded >= 32 - len(others) > 0
    assert loader.by_pyav.total() >= len(others) > 0
    assert set(loader.by_pyav) == {"DALI does not decode h264 on the CPU"}
    assert caplog.text.count("is decoded by PyAV: DALI does not decode h264 on the CPU") == 1
    assert "clips were decoded by PyAV; " in caplog.text


def load_codec(folder):
    return {sample.key: sample.codec for sample in load_index((str(folder),))}


@requires_dali
def test_ranks_and_resuming_change_nothing(shards):
    whole, _ = take(config(shards, decoder="pyav"), 6)
    ranks, _ = take(config(shards, decoder="dali"), 6, world_size=2, batch=2)
    assert_same(whole, ranks)
    tail, _ = take(config(shards, decoder="dali", num_workers=1), 4, start_step=2)
    assert_same(whole[2:], tail)


@requires_dali
@pytest.mark.parametrize("num_workers", (0, 1))
def test_damaged_samples_have_the_same_spares_and_reports(shards, tmp_path, num_workers):
    folder = shutil.copytree(shards, tmp_path / "shards")
    index = load_index((str(folder),))
    damage(folder, {sample.key for sample in (index.videos[2], index.videos[5], index.images[1])})
    pyav, _ = take(config(folder, decoder="pyav"), 8)
    dali, _ = take(config(folder, decoder="dali", num_workers=num_workers), 8)
    assert_same(pyav, dali)
    assert len(rows(dali)[1]) >= 4


@requires_dali
def test_a_clip_at_which_both_decoders_fail_has_a_spare(shards, monkeypatch, caplog):
    """Its bytes are those of the index and its head is sound: only decoding it in full finds the damage."""
    pyav, _ = take(config(shards, decoder="pyav"), 8)
    bad = next(s.key for s in load_index((str(shards),)).videos if s.codec == "vp9")
    run = DaliDecoder._run

    def failing(self, clips):
        if any(clip.key == bad for clip in clips):
            raise DataError("DALI: a damaged frame")
        return run(self, clips)

    monkeypatch.setattr(DaliDecoder, "_run", failing)
    again, (loader,) = take(config(shards, decoder="dali"), 8)
    assert rows(pyav) == rows(again)  # PyAV decodes it
    failed = "dali-cpu failed on its batch"
    assert loader.by_pyav[failed] >= 4
    assert bad in caplog.text
    assert "dali-cpu failed on a batch, PyAV decodes it (" in caplog.text

    size = next(s.size for s in load_index((str(shards),)).videos if s.key == bad)

    def damaged(data, *args, **options):
        if len(data) == size:
            raise DataError("frame 3 is damaged")
        return read_frames(data, *args, **options)

    monkeypatch.setattr("lavie.data.feed.sample.read_frames", damaged)
    pyav, _ = take(config(shards, decoder="pyav"), 8)
    dali, _ = take(config(shards, decoder="dali"), 8)
    assert_same(pyav, dali)
    dropped = rows(dali)[1]
    assert dropped
    assert all(d["key"] == bad and d["reason"] == "frame 3 is damaged" for d in dropped)


@requires_dali
def test_moving_images_are_the_workers(shards):
    changes = {"crop": "patch", "moving_images": 0.4, "height": 16, "width": 16, "num_images": 0}
    pyav, _ = take(config(shards, decoder="pyav", **changes), 5)
    dali, (loader,) = take(config(shards, decoder="dali", **changes), 5)
    assert_same(pyav, dali)
    assert loader.by_pyav["it is an image under a moving camera"] >= 4
    assert loader.decoded >= 4


@requires_dali
def test_a_worker_that_dies_changes_nothing(shards):
    pyav, _ = take(config(shards, decoder="pyav"), 10, batch=2)
    data = config(shards, decoder="dali", num_workers=2)
    others = multiprocessing.active_children()
    loader = build_loader(data, data.train, Share(seed=3, train_batch_size=2))
    dali = list(itertools.islice(loader, 3))
    os.kill(processes(others)[0].pid, signal.SIGKILL)
    dali += itertools.islice(loader, 7)
    loader.close()
    assert_same(pyav, dali)


@requires_dali
def test_files_travel_in_shared_memory_whatever_their_size(tmp_path):
    """A file is larger than the frames that it gives, or smaller."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 96, 1), dtype=np.uint8)
    media = {"large": encode_vp9(noise.repeat(3, -1), 8), "small": encode_vp9(waves(0), 8)}
    pack_media(tmp_path, media, num_frames=4)
    assert len(media["small"]) < 4 * 32 * 32 * 3 < len(media["large"])
    changes = {"height": 32, "width": 32, "num_images": 0}
    pyav, _ = take(config(tmp_path, decoder="pyav", **changes), 3)
    dali, _ = take(config(tmp_path, decoder="dali", num_workers=1, **changes), 3)
    assert_same(pyav, dali)
    assert {key.split("-")[1] for _, (key,), _ in rows(dali)[0]} == {"large", "small"}


def test_what_dali_cannot_serve_is_refused_or_left_to_pyav(shards, monkeypatch):
    monkeypatch.setattr(decoders, "missing_dali", lambda: "DALI is not installed: pip install 'lavie[dali]'")
    with pytest.raises(ConfigError, match=r"data.decoder is dali: DALI is not installed.*lavie\[dali\]"):
        take(config(shards, decoder="dali"), 1)
    monkeypatch.setattr(decoders, "missing_dali", lambda: None)
    for verify in ("never", "sampled"):
        with pytest.raises(ConfigError, match=r"data.decoder is dali: .*data.verify is not always"):
            take(config(shards, decoder="dali", verify=verify), 1)
    # By default, without a GPU, PyAV decodes.
    _, (loader,) = take(config(shards), 1)
    assert isinstance(loader, Batches)
    assert not isinstance(loader, DecodedBatches)


@pytest.mark.slow
@requires_dali
@requires_shared
def test_real_clips(tmp_path):
    """The videos of the assets are fed by both; those that are not VP9 are encoded anew at half their size."""
    folder = SHARED / "assets/videos"
    media = {"tears": (folder / "tears_of_steel.webm").read_bytes()}
    for name in ("bigbuckbunny", "frog"):
        data = (folder / f"{name}.mp4").read_bytes()
        frames = decode_frames(data, range(0, min(60, len(frame_times(data))), 2))
        media[name] = encode_vp9(frames[:, ::2, ::2], 12, gop=15)
    pack_files((CaptionedFile(k, k, lambda d=d: d, k) for k, d in media.items()), tmp_path, num_frames=4, fps=4)
    changes = {"num_images": 0, "height": 64, "width": 96}
    pyav, _ = take(config(tmp_path, decoder="pyav", **changes), 2, batch=3)
    dali, (loader,) = take(config(tmp_path, decoder="dali", **changes), 2, batch=3)
    assert_same(pyav, dali)
    assert not loader.by_pyav
