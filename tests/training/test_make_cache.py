"""Making a cache: it goes on where it was killed, ranks share it, and what is stale or damaged is found."""

import hashlib
import io
import itertools
import json
import os
import shutil
import signal
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from lavie.cli.main import app
from lavie.config.load import dump_yaml
from lavie.config.overrides import merge
from lavie.config.train import TrainConfig
from lavie.data.cache.layout import shard_names
from lavie.data.cache.lookup import Lookup
from lavie.data.prepare.captions import clean_caption
from lavie.data.shards.index import load_index
from lavie.data.shards.index_file import read_header, write_index
from lavie.errors import CheckpointError, ConfigError, DataError
from lavie.launcher import launched_rank
from lavie.testing import TOLERANCES, relative_error
from lavie.training.entry_encoders import encoding_device
from lavie.training.make_cache import cache_data
from lavie.training.open_caches import open_caches
from tests.training.cached import CPU, batches, cached, inputs, make_config, with_cache, without_encoders


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def die_after(config: TrainConfig, out: Path, shards: int) -> None:
    """Cache, and be killed when so many shards are there."""
    left = itertools.count(1)

    def done(*_):
        if next(left) == shards:
            os.kill(os.getpid(), signal.SIGKILL)

    cache_data(config, out, device=CPU, shard_bytes=SMALL, batch=3, done=done)


def entries(out: Path) -> dict[bytes, list[bytes]]:
    """What a cache holds, by key."""
    found = {}
    for path in [*out.glob("*/clips-*.safetensors"), *out.glob("*/images-*.safetensors")]:
        tensors = load_file(path)
        for i, key in enumerate(tensors["key"]):
            found[key.numpy().tobytes()] = [tensors[name][i].numpy().tobytes() for name in ("mean", "text", "sha256")]
    assert len(found) == 72
    return found


SMALL = 1 << 13
"""Bytes of a shard: five clips' entries, or fewer."""


@pytest.mark.slow
def test_killed_caching_goes_on_and_gives_the_same_bytes(rendered, pretrained, tmp_path):
    config = make_config(rendered, pretrained)
    whole = cache_data(config, tmp_path / "whole", device=CPU, shard_bytes=SMALL, batch=3)
    expected = files(tmp_path / "whole")
    shards = [name for name in expected if name.endswith(".safetensors") and "empty" not in name]
    assert whole.wanted == whole.encoded == 2 * (24 + 12)
    assert len(shards) > 8
    for kill in (1, 5):
        process = get_context("forkserver").Process(target=die_after, args=(config, tmp_path / "killed", kill))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        with pytest.raises(DataError, match=r"clips\.lookup: cannot be read.*Run `lavie data cache` again"):
            open_caches(with_cache(config, tmp_path / "killed"))
    there = [name for name in files(tmp_path / "killed") if name in shards]
    assert len(there) == 6
    report = cache_data(config, tmp_path / "killed", device=CPU, shard_bytes=SMALL, batch=3)
    assert 0 < report.encoded < report.wanted
    assert report.kept + report.encoded == report.wanted
    assert files(tmp_path / "killed") == expected
    again = cache_data(config, tmp_path / "killed", device=CPU)
    assert (again.kept, again.encoded) == (again.wanted, 0)
    assert files(tmp_path / "killed") == expected


def as_rank(monkeypatch, rank: int, ranks: int, config: TrainConfig, out: Path, names=("RANK", "WORLD_SIZE"), **kwargs):
    for name, value in zip(names, (rank, ranks), strict=True):
        monkeypatch.setenv(name, str(value))
    launched = launched_rank()
    assert (launched.rank, launched.world_size) == (rank, ranks)
    report = cache_data(config, out, device=CPU, batch=3, **kwargs)
    for name in names:
        monkeypatch.delenv(name)
    return report


@pytest.mark.slow
def test_ranks_share_the_work_in_any_order(rendered, tmp_path, monkeypatch):
    config = make_config(rendered)
    cache_data(config, tmp_path / "one", device=CPU, shard_bytes=SMALL, batch=3)
    launchers = (
        (2, ("RANK", "WORLD_SIZE")),
        (3, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")),
        (4, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")),
    )
    for ranks, names in launchers:
        out = tmp_path / str(ranks)
        reports = [
            as_rank(monkeypatch, rank, ranks, config, out, names, shard_bytes=SMALL) for rank in reversed(range(ranks))
        ]
        assert all(report.encoded > 0 for report in reports)
        assert sum(report.encoded for report in reports) == reports[0].wanted == 72
        assert entries(out) == entries(tmp_path / "one")
    # A dataset of less than a shard is shared all the same.
    assert [as_rank(monkeypatch, rank, 4, config, tmp_path / "small").encoded for rank in range(4)] == [18] * 4


def test_more_cuts_are_added_and_fewer_are_served(rendered, tmp_path):
    config = make_config(rendered)
    two = cached(config, tmp_path / "out")
    three = make_config(rendered, data={"cuts": 3})
    with pytest.raises(DataError, match=r"36 of 108 entries are missing .*data\.cuts 3 is more than were made"):
        batches(with_cache(three, tmp_path / "out"), 1)
    report = cache_data(three, tmp_path / "out", device=CPU)
    assert (report.kept, report.encoded) == (72, 36)
    for config in (two, with_cache(three, tmp_path / "out")):
        online = config.model_copy(update={"data": config.data.model_copy(update={"cache": None})})
        for a, b in zip(without_encoders(config, 3), inputs(online, 3), strict=True):
            assert relative_error(a.sample, b.sample) <= TOLERANCES[torch.float16]


def reindex(folder: Path, change) -> None:
    """Write the index of a folder's shard anew with other samples, and do away with its table."""
    [tar] = folder.glob("*.tar")
    samples = [change(sample) for sample in load_index([str(folder)])]
    write_index(tar, samples, read_header(tar.with_name("00000.index.jsonl")).rejected)


def test_samples_that_have_changed_are_missing_and_made_again(rendered, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(rendered / "train", data / "train")
    config = make_config(data)
    run = cached(config, tmp_path / "out")
    index = load_index(config.data.train)
    caption, media = index.videos[3].key, index.images[2].key
    reindex(data / "train", lambda s: replace(s, caption=clean_caption(b"another")) if s.key == caption else s)
    with pytest.raises(DataError, match=rf"2 of 72 entries are missing \(first: {caption}, cut 0\): .*changed"):
        batches(run, 1)
    tar, sample = data / "train" / "00000.tar", index.images[2]
    content = bytearray(tar.read_bytes())
    content[sample.offset : sample.offset + sample.size] = other_image(sample.size)
    tar.write_bytes(content)
    assert [s.key for s in index.images].count(media) == 1
    digest = hashlib.sha256(other_image(sample.size)).hexdigest()
    reindex(data / "train", lambda s: replace(s, sha256=digest) if s.key == media else s)
    with pytest.raises(DataError, match="4 of 72 entries are missing"):
        batches(run, 1)
    report = cache_data(config, tmp_path / "out", device=CPU, dtype=torch.float16)
    assert (report.kept, report.encoded) == (68, 4)
    for a, b in zip(without_encoders(run, 6), inputs(config, 6), strict=True):
        assert relative_error(a.sample, b.sample) <= TOLERANCES[torch.float16]
        assert relative_error(a.text, b.text) <= TOLERANCES[torch.float16]


def other_image(size: int) -> bytes:
    """A png of so many bytes."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "png")
    assert len(file.getvalue()) <= size
    return file.getvalue() + bytes(size - len(file.getvalue()))


@pytest.mark.slow
def test_other_encoders_and_pixels_are_refused_by_name(rendered, pretrained, tmp_path):
    folder = tmp_path / "sd"
    shutil.copytree(pretrained, folder)
    config = make_config(rendered, folder)
    run = cached(config, tmp_path / "out")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for data, problem in ((bytes(content), "vae/ is '.*', wanted '.*'"), (b"", "vae/ is")):
        original = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(DataError, match=problem):
            open_caches(run)
        path.write_bytes(original)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"made for something else: vae/.* into a new folder"):
        cache_data(config, tmp_path / "out", device=CPU)
    path.write_bytes(original)
    assert open_caches(run)
    for changes, field in (
        ({"data": {"frame_stride": 2}}, r"data\.frame_stride is 1, wanted 2"),
        ({"data": {"frame_stride": None, "fps": 4}}, r"data\.fps is None, wanted 4\.0"),
        ({"data": {"crop": "patch"}}, r"data\.crop is 'cover', wanted 'patch'"),
        ({"autoencoder": {"scaling_factor": 0.4}}, r"autoencoder\.scaling_factor is None, wanted 0\.4"),
        ({"text_encoder": {"max_length": 31}}, r"text_encoder\.max_length is 32, wanted 31"),
        ({"data": {"height": 24}}, "no entries of 4x24x16 .*but 4x16x16"),
        ({"data": {"num_frames": 3}}, "no entries of 3x16x16"),
    ):
        with pytest.raises(DataError, match=field):
            open_caches(TrainConfig.model_validate(merge(run.model_dump(), changes)))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(DataError, match="tokenizer/ is"):
        open_caches(run)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(CheckpointError, match="no files of an encoder in text_encoder/"):
        open_caches(run)


def test_a_cache_cannot_hold_what_is_drawn_at_each_visit(rendered, tmp_path):
    for changes, message in (
        ({"cuts": None}, "cuts is null: a cache holds fixed cuts"),
        ({"moving_images": 0.5, "crop": "patch"}, "moving_images 0.5: a camera's way"),
    ):
        with pytest.raises(ConfigError, match=message):
            cache_data(make_config(rendered, data=changes), tmp_path, device=CPU)
    vsr = {
        "stage": "vsr",
        "model": {"in_channels": 9, "num_noise_levels": 10},
        "degradation": {"scale": 4},
        "sampling": {"noise_level": 3},
        "data": {"num_images": 0},
    }
    with pytest.raises(ConfigError, match="stage vsr degrades the pixels of each visit"):
        cache_data(make_config(rendered, **vsr), tmp_path, device=CPU)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"--device {device}: "):
            encoding_device(device)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_cannot_be_decoded_is_left_out_and_named_and_is_a_spare_in_training(rendered, tmp_path, caplog):
    shutil.copytree(rendered / "train", tmp_path / "data" / "train")
    config = make_config(tmp_path / "data", data={"num_workers": 1})
    index = load_index(config.data.train)
    bad = {index.videos[5].key, index.images[7].key}
    tar = tmp_path / "data" / "train" / "00000.tar"
    content = bytearray(tar.read_bytes())
    for sample in index:
        if sample.key in bad:
            content[sample.offset + sample.size // 2] ^= 1
    tar.write_bytes(content)
    report = cache_data(config, tmp_path / "out", device=CPU, dtype=torch.float32, shard_bytes=SMALL)
    assert {(line["key"], line["cut"]) for line in report.failed} == {(key, cut) for key in bad for cut in range(2)}
    assert all("SHA-256 differs" in line["reason"] for line in report.failed)
    assert report.encoded == 68
    (folder,) = (tmp_path / "out").iterdir()
    lines = (folder / "failed-rank0.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == report.failed
    run = with_cache(config, tmp_path / "out", num_workers=0)
    online, from_cache = batches(config, 8), batches(run, 8)
    assert "4 entries could not be decoded" in caplog.text
    assert [b["keys"] for b in from_cache] == [b["keys"] for b in online]
    drops = [[(d["key"], d["position"]) for b in some for d in b["dropped"]] for some in (online, from_cache)]
    assert drops[0] == drops[1]
    assert {key for key, _ in drops[0]} == bad
    assert all("SHA-256 differs from the index" in d["reason"] for b in from_cache for d in b["dropped"])
    # Mended, they are made.
    shutil.copyfile(rendered / "train" / "00000.tar", tar)
    again = cache_data(config, tmp_path / "out", device=CPU, dtype=torch.float32)
    assert (again.kept, again.encoded, again.failed) == (68, 4, [])
    assert not any(b["dropped"] for b in batches(run, 8))


def test_features_past_the_range_of_the_dtype_are_failures(rendered, tmp_path):
    config = make_config(rendered, autoencoder={"scaling_factor": 1e5})
    report = cache_data(config, tmp_path / "half", device=CPU, dtype=torch.float16)
    assert report.failed
    assert "past the range of torch.float16 (--dtype)" in report.failed[0]["reason"]
    (folder,) = (tmp_path / "half").iterdir()
    assert len(Lookup.load(folder, "clips")) + len(Lookup.load(folder, "images")) == report.encoded
    assert not cache_data(config, tmp_path / "whole", device=CPU, dtype=torch.bfloat16).failed


@pytest.mark.slow
def test_a_damaged_entry_is_a_spare_and_its_shard_is_made_again(rendered, tmp_path):
    config = make_config(rendered)
    run = cached(config, tmp_path, shard_bytes=SMALL, dtype=torch.float32)
    folder = tmp_path / "4x16x16"
    path = folder / shard_names(folder, "clips")[0]
    before = path.read_bytes()
    length = 8 + int.from_bytes(before[:8], "little")
    header = json.loads(before[8:length])
    offset = length + header["mean"]["data_offsets"][0]
    path.write_bytes(before[:offset] + bytes([before[offset] ^ 1]) + before[offset + 1 :])
    dropped = [d for b in batches(run, 24) for d in b["dropped"]]
    assert dropped
    assert {d["reason"].split(": ")[0] for d in dropped} == {f"{path}, row 0"}
    assert not any(b["dropped"] for b in batches(with_cache(run, tmp_path, verify="never"), 24))
    sampled = [d for b in batches(with_cache(run, tmp_path, verify="sampled"), 96) for d in b["dropped"]]
    assert len(sampled) < 2 * len(dropped)
    path.unlink()
    report = cache_data(config, tmp_path, device=CPU, shard_bytes=SMALL, dtype=torch.float32)
    assert report.encoded == header["mean"]["shape"][0]
    assert path.read_bytes() == before
    left = [sum(len(b["dropped"]) for b in batches(run, 24)) for _ in range(2)]
    assert left[0] <= 1  # this process may hold the old file open, up to its next error
    assert left[1] == 0


@pytest.mark.slow
def test_the_command(rendered, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(make_config(rendered)))
    call = [
        "data",
        "cache",
        str(path),
        str(tmp_path / "out"),
        "data.num_images=0",
        "--dtype",
        "float32",
        "--batch",
        "5",
    ]
    first, again = (CliRunner().invoke(app, call, catch_exceptions=False) for _ in range(2))
    assert first.exit_code == again.exit_code == 0
    assert "rank 0: 48 of 48 clips" in first.output
    assert f"data.cache={tmp_path}/out" in first.output
    counts = [[line.split()[-2] for line in run.output.splitlines() if "│" in line] for run in (first, again)]
    assert counts == [["48", "0", "48", "0"], ["48", "48", "0", "0"]]
    run = with_cache(make_config(rendered, data={"num_images": 0}), tmp_path / "out")
    assert torch.equal(
        without_encoders(run, 1)[0].sample, inputs(make_config(rendered, data={"num_images": 0}), 1)[0].sample
    )
    refused = CliRunner().invoke(app, [*call[:4], "data.cuts=null"])
    assert isinstance(refused.exception, ConfigError)
    assert "cuts is null" in str(refused.exception)
