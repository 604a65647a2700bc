"""Clips decoded one batch ahead: in order, made again by PyAV where a decoder fails, counted by reason."""

import logging
import threading

import numpy as np
import pytest
import torch

from lavie.data.decoders.clip import DecodedClip, EncodedClip
from lavie.data.feed import decoded as decoders
from lavie.data.feed.decoded import DecodedBatches
from lavie.errors import DataError
from lavie.pixels import to_float

CPU = torch.device("cpu")


class Counting:
    """A decoder whose clips are filled with the number of their first frame; fails on the keys of `bad`."""

    backend = "dali-cpu"

    def __init__(self, bad=()):
        self.bad = bad

    def __call__(self, clips):
        if any(clip.key in self.bad for clip in clips):
            raise DataError("DALI: it does not like this file")
        return torch.stack([torch.full((2, 3, 4, 4), clip.indices[0] / 100) for clip in clips])


def batch(first: int, encoded=(True, True)):
    """Return a batch of two rows of a clip and a white image; the clip is still to be decoded where `encoded` says."""
    numbers = [first, first + 1]
    pixels = torch.full((2, 3, 4, 4, 3), 255, dtype=torch.uint8)
    clips = []
    for n, to_decode, row in zip(numbers, encoded, pixels, strict=True):
        row[:2] = 77 if to_decode else n
        clip = EncodedClip(f"k{n}", b"", np.array([n, n + 1]), 4, 4, False, 0, 0)
        clips.append(clip if to_decode else DecodedClip(f"k{n}", "odd codec"))
    return {
        "clips": clips,
        "pixels": pixels,
        "captions": [[f"c{n}", "image"] for n in numbers],
        "keys": [[f"k{n}", "image"] for n in numbers],
        "positions": torch.tensor(numbers),
        "dropped": [],
    }


def remake(position):
    """Return the row of a spare at a position, as PyAV would decode it."""
    pixels = torch.full((3, 4, 4, 3), 100 + position, dtype=torch.uint8)
    dropped = [{"key": f"k{position}", "reason": "damaged", "position": position}]
    return {"pixels": pixels, "captions": ["spare", "i"], "keys": ["s", "i"], "position": position, "dropped": dropped}


def decoded(batches, bad=(), remake=remake):
    """Decode batches by a decoder that fails on the keys of `bad`."""
    return DecodedBatches(iter(batches), lambda *size: Counting(bad), remake, CPU)


def test_batches_keep_order_and_gain_their_clips(caplog):
    caplog.set_level(logging.INFO, "lavie")
    ahead = decoded([batch(10), batch(12, (False, True)), batch(14, (False, False))])
    out = list(ahead)
    assert [b["positions"].tolist() for b in out] == [[10, 11], [12, 13], [14, 15]]
    assert all(b["pixels"].shape == (2, 3, 3, 4, 4) and "clips" not in b for b in out)
    assert all((b["pixels"][:, 2] == 1).all() for b in out)
    assert out[0]["pixels"][:, 0, 0, 0, 0].tolist() == pytest.approx([0.10, 0.11])
    torch.testing.assert_close(out[1]["pixels"][0, :2], torch.full((2, 3, 4, 4), 12 / 127.5 - 1))
    assert out[1]["pixels"][1, 0, 0, 0, 0].item() == pytest.approx(0.13)
    assert caplog.text.count("odd codec") == 1
    assert (ahead.decoded, ahead.by_pyav) == (3, {"odd codec": 3})
    ahead.close()
    assert "3 of this rank's 6 clips were decoded by PyAV; 3: odd codec" in caplog.text


def test_counts_are_logged_at_doubling_intervals(caplog, monkeypatch):
    monkeypatch.setattr(decoders, "REPORT", 4)
    caplog.set_level(logging.INFO, "lavie")
    list(decoded(batch(n, (True, False)) for n in range(0, 64, 2)))
    lines = [r.getMessage() for r in caplog.records if "of this rank's" in r.getMessage()]
    assert [int(line.split("rank's ")[1].split()[0]) for line in lines] == [4, 8, 16, 32, 64]
    assert lines[-1].startswith("data: 32 of this rank's 64 clips were decoded by PyAV; 32: odd codec")


def test_a_failed_batch_is_made_again_with_its_spares(caplog):
    first = batch(10)
    first["dropped"] = [{"key": "x", "reason": "y", "position": p} for p in (10, 11)]
    ahead = decoded([first, batch(12, (False, True))], bad=("k11", "k13"))
    out, other = ahead
    torch.testing.assert_close(out["pixels"], to_float(torch.stack([remake(p)["pixels"] for p in (10, 11)])))
    assert out["captions"] == [["spare", "i"]] * 2
    assert out["keys"] == [["s", "i"]] * 2
    assert [(d["key"], d["position"]) for d in out["dropped"]] == [("k10", 10), ("k11", 11)]
    assert other["captions"] == [["c12", "image"], ["spare", "i"]]
    assert [d["position"] for d in other["dropped"]] == [13]
    assert "dali-cpu failed on a batch, PyAV decodes it (k10, k11): DALI: it does not like this file" in caplog.text
    assert ahead.by_pyav == {"dali-cpu failed on its batch": 3, "odd codec": 1}


def test_each_size_has_a_decoder_of_its_own():
    made = []

    def decoder(*size):
        made.append(size)
        return lambda clips: torch.zeros(len(clips), size[0], 3, *size[1:])

    large = batch(20)
    large["pixels"] = torch.zeros(2, 3, 6, 8, 3, dtype=torch.uint8)
    out = list(DecodedBatches(iter([batch(10), large, batch(30)]), decoder, remake, CPU))
    assert made == [(2, 4, 4), (2, 6, 8)]
    assert [b["pixels"].shape[-2:] for b in out] == [(4, 4), (6, 8), (4, 4)]


def test_errors_of_the_loader_and_of_spares_reach_the_consumer():
    def broken():
        yield batch(10)
        raise DataError("the loader's own")

    ahead = decoded(broken())
    next(ahead)
    with pytest.raises(DataError, match="the loader's own"):
        next(ahead)

    def no_spare(position):
        raise DataError("no spare")

    with pytest.raises(DataError, match="no spare"):
        next(decoded([batch(1)], ("k1",), no_spare))


def test_closing_ends_the_thread_and_what_it_reads():
    class Endless:
        closed = False

        def __iter__(self):
            return self

        def __next__(self):
            assert not self.closed
            return batch(10)

        def close(self):
            self.closed = True

    batches, before = Endless(), set(threading.enumerate())
    ahead = decoded(batches)
    next(ahead)
    ahead.close()
    assert batches.closed
    assert set(threading.enumerate()) <= before
    with pytest.raises(StopIteration):
        next(ahead)
