"""The benchmark's rival shows the right frames, and its shares are computed from what runs write."""

import json

import numpy as np
import pytest

from lavie.bench import loader as bench
from lavie.data.media.clips import fit
from lavie.data.media.decode import decode_frames
from lavie.data.media.encode import encode_mp4
from lavie.data.shards.index import load_index


def test_the_rivals_random_access_finds_the_same_frames(monkeypatch):
    monkeypatch.setattr(bench, "FRAMES", 4)
    frames = np.repeat(np.arange(0, 240, 6, dtype=np.uint8), 48 * 64 * 3).reshape(40, 48, 64, 3)
    media = encode_mp4(frames, 24)
    for key in ("a", "b", "c", "d"):
        start = int(bench._start(key) * (40 - 3 * bench.STRIDE))
        wanted = [start + bench.STRIDE * k for k in range(4)]
        expected = fit(decode_frames(media, wanted), bench.HEIGHT, bench.WIDTH)
        found = bench._plain_clip({"__key__": key, "mp4": media})
        # Levels of neighbours differ by 6.
        np.testing.assert_allclose(found.astype(int).mean((1, 2, 3)), expected.astype(int).mean((1, 2, 3)), atol=2.5)


@pytest.mark.slow
def test_every_part_of_the_contest_runs(tmp_path):
    folder = bench.render(tmp_path / "short-h264", 2, "short-h264")
    assert bench.ours(folder, 0, 2) > 0
    assert bench.plain(folder, 0, 2) > 0
    times = bench.reading(load_index([str(folder)]), 1)
    assert times["decoding"] > times["in our order"] > 0 and times["decoding, swscale-1"] > 0


def test_share_of_waiting(tmp_path):
    lines = [{"step": 1, "data_wait_s": w, "samples_per_s": s} for w, s in ((9, None), (0.5, 4), (0.1, 2))]
    lines.insert(1, {"step": 1, "validation_loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert bench.data_wait(path, 8) == pytest.approx(0.6 / (2 + 4))
