"""Training on shards behind URLs: the batches of a disk, spares for lost samples, an end where the store is gone."""

import itertools
import re
from pathlib import Path

import pytest
import torch
import typer.testing

from lavie.cli.main import app
from lavie.config.data import DataConfig
from lavie.data.feed.loader import build_loader
from lavie.data.feed.rows import address
from lavie.data.feed.share import Share
from lavie.data.shards import remote
from lavie.data.shards.index import load_index
from lavie.errors import DataError
from tests.data.shards.web import cut, delay, refuse

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'lavie[remote]'")


def sequence(path, steps=3, start_step=0, **changes):
    """Return the keys, positions and dropped samples of each batch, and the pixels of all batches."""
    values = {"num_frames": 4, "num_images": 1, "height": 16, "width": 16, "fps": 8, "num_workers": 0}
    data = DataConfig(train=(str(path),), remote=True, **{**values, **changes})
    batches = build_loader(data, data.train, Share(seed=0, train_batch_size=8), start_step=start_step)
    taken = list(itertools.islice(batches, steps))
    batches.close()
    return [(b["keys"], b["positions"].tolist(), b["dropped"]) for b in taken], torch.cat([b["pixels"] for b in taken])


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", (0, 2))
def test_samples_and_pixels_are_those_of_the_same_shards_on_a_disk(web, served_folder, num_workers):
    expected, pixels = sequence(served_folder, steps=9)  # 72 positions of 24 videos: three epochs
    found, same = sequence(f"{web.url}/set", steps=9, num_workers=num_workers)
    assert found == expected
    assert torch.equal(same, pixels)
    found, same = sequence(f"{web.url}/set/", steps=4, start_step=5, num_workers=num_workers)
    assert found == expected[5:]
    assert torch.equal(same, pixels[40:])
    ranges = [r for method, path, r in web.requests if path.endswith(".tar") and method == "GET"]
    assert ranges
    assert all(ranges)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, reason",
    (
        (refuse(503), "3 attempts in .* s, the last: ClientResponseError: 503"),
        (cut, "3 attempts in .* s, the last: ClientPayloadError"),
        (delay(3), "3 attempts in .* s, the last: no answer within 1 s"),
        (refuse(403), "ClientResponseError: 403"),
        (refuse(404), "ClientResponseError: 404"),
    ),
)
def test_a_sample_that_stays_out_of_reach_is_dropped_for_a_spare_and_named(web, served_folder, fault, reason):
    expected, pixels = sequence(served_folder)
    lost = next(s for s in load_index((f"{web.url}/set",), remote=True) if s.key == expected[1][0][0][0])
    span = f"bytes={lost.offset}-{lost.offset + lost.size - 1}"
    wanted = f"/set/{Path(lost.shard).name}", span
    web.fault = lambda handler: (handler.path, handler.headers.get("Range")) == wanted and fault(handler)
    remote._down.clear()
    found, others = sequence(f"{web.url}/set", timeout=6)
    dropped = [d for _, _, some in found for d in some]
    assert dropped[0]["position"] == 8
    assert {d["key"] for d in dropped} == {lost.key}
    asked = sum(request == ("GET", *wanted) for request in web.requests)
    assert asked == len(dropped) * (1 if "ClientResponseError: 40" in reason else 3)
    assert re.search(reason, dropped[0]["reason"])
    assert address(lost) in dropped[0]["reason"]
    rows = {d["position"] for d in dropped}
    keys = [k for names, _, _ in expected for k in names]
    assert [k for i, k in enumerate(k for names, _, _ in found for k in names) if i not in rows] == [
        k for i, k in enumerate(keys) if i not in rows
    ]
    same = [i for i in range(24) if i not in rows]
    assert torch.equal(others[same], pixels[same])


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", (0, 1))
def test_a_store_that_no_longer_answers_stops_the_run(web, num_workers):
    url = f"{web.url}/set"
    load_index((url,), remote=True)
    web.fault = lambda handler: handler.path.endswith(".tar") and handler.command == "GET" and refuse(500)(handler)
    with pytest.raises(DataError, match=r"position 0: 21 samples in a row cannot be read.*ClientResponseError: 500"):
        sequence(url, num_workers=num_workers)
    # The first sample has all its attempts; then the store is known to be down. (Workers read ahead: 16 rows.)
    assert 21 + 2 <= sum(path.endswith(".tar") and r is not None for _, path, r in web.requests) <= 16 * (21 + 2)


def test_remote_shards_are_indexed_elsewhere(web):
    result = typer.testing.CliRunner().invoke(app, ["data", "index", f"{web.url}/set"])
    assert isinstance(result.exception, DataError)
    assert "a copy of the shards on a disk" in str(result.exception)
    assert web.requests == []
