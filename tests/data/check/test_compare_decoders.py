"""The check's second decoder, DALI beside PyAV: for VP9, for what DALI does not decode, and for its crashes."""

import json
import os
import signal
import sys
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import typer
import typer.testing

from lavie.cli.data_check import check_command
from lavie.data.check import compare_decoders as compare
from lavie.data.check.compare_decoders import Comparison
from lavie.data.decoders.choice import missing_dali
from lavie.data.media.decode import probe
from lavie.data.media.encode import encode_mp4, encode_vp9
from lavie.data.prepare.scan import index_shard
from lavie.data.shards.index_file import write_index
from lavie.errors import DataError
from lavie.seeds import numpy_generator
from tests.data.tars import make_tar

requires_dali = pytest.mark.skipif(missing_dali() is not None, reason="DALI is not installed")


def moving(seed: int) -> np.ndarray:
    """Return twenty grey frames of 56 x 40 pixels with waves that move."""
    y, x = np.mgrid[:40, :56]
    frames = np.stack([120 + 80 * np.sin(x / 7 + seed + i / 2) * np.cos(y / 9) for i in range(20)])
    return np.repeat(frames[..., None], 3, -1).astype(np.uint8)


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "0.tar"
    videos = {"a.webm": encode_vp9(moving(0), 8), "b.webm": encode_vp9(moving(1), 8), "c.mp4": encode_mp4(moving(2), 8)}
    members = []
    for name, data in videos.items():
        members += [(name, data), (f"{name[0]}.txt", b"a clip of waves")]
    make_tar(path, members)
    write_index(path, *index_shard(path))
    return path


@pytest.fixture(scope="module")
def samples(tar):
    data = tar.read_bytes()
    return {s.key: (s, data[s.offset : s.offset + s.size]) for s in index_shard(tar)[0]}


@pytest.fixture(scope="module")
def comparison():
    opened = Comparison()
    yield opened
    opened.close()


def kill(data, *args):
    """Stand in for a decoder that crashes."""
    os.kill(os.getpid(), signal.SIGSEGV)


def differ(data, *args):
    """Stand in for a decoder that shows something else."""
    return "", "pixels differ"


@pytest.mark.slow
@requires_dali
def test_what_dali_shows_dies_of_and_does_not_get(comparison, samples, monkeypatch):
    indices = [0, 7, 19]
    assert comparison(*samples["a"], indices, 40, 56) == ("agree", "")
    outcome, why = comparison(*samples["c"], indices, 40, 56)
    assert (outcome, why) == ("not compared", "DALI does not decode h264 on the CPU")
    # A frame that is not there: DALI refuses, while the index allows it.
    outcome, why = comparison(*samples["a"], [0, 20], 40, 56)
    assert outcome == "disagree"
    assert "the video ends before it" in why
    monkeypatch.setattr(compare, "difference", kill)
    outcome, why = comparison(*samples["b"], indices, 40, 56)
    assert (outcome, why) == ("disagree", "DALI fails: the decoder crashed with SIGSEGV")
    monkeypatch.setattr(compare, "difference", differ)
    assert comparison(*samples["b"], indices, 40, 56) == ("disagree", "DALI beside PyAV: pixels differ")


def test_without_dali_nothing_is_compared(samples, monkeypatch):
    monkeypatch.setattr(compare, "missing_dali", lambda: "DALI is not installed")
    opened = Comparison()
    assert opened(*samples["a"], [0, 7], 40, 56) == ("not compared", "DALI is not installed")
    opened.close()


@pytest.mark.slow
@requires_dali
def test_damage_that_an_index_accepts_neither_kills_dali_nor_shows_otherwise(comparison, samples):
    """The check of headers and the child are one: what comes through both is what PyAV shows."""
    sample, sound = samples["a"]
    rng, outcomes = numpy_generator(0, "mutants of a webm"), Counter()
    for number in range(120):
        data = bytearray(sound)
        # Half of the damage lies in the headers, the first 400 bytes.
        start = int(rng.integers(len(data) if number % 2 else 400))
        if number % 3:
            data[start] ^= 1 << rng.integers(8)
        else:
            data[start : start + 20] = bytes(20)
        try:
            info = asdict(probe(bytes(data)))
        except DataError:
            outcomes["not indexed"] += 1
            continue
        facts = {name: info[name] for name in asdict(sample).keys() & info.keys()}
        outcome, why = comparison(replace(sample, **facts), bytes(data), [0, info["frames"] - 1], 40, 56)
        assert outcome != "disagree", (number, start, why)
        outcomes[outcome] += 1
    assert outcomes["agree"] > 60, outcomes
    assert outcomes["not compared"] > 2, outcomes
    assert outcomes["not indexed"] > 10, outcomes


@pytest.mark.slow
@requires_dali
def test_a_machine_where_dali_does_not_run_is_told_once(samples, monkeypatch):
    monkeypatch.setattr(compare, "try_dali", kill)
    opened = Comparison()
    for key in "ab":
        outcome, why = opened(*samples[key], [0, 7], 40, 56)
        assert outcome == "not compared"
        assert why == "DALI does not run in a process with limits: the process that decodes media does not start: " + (
            f"{sys.executable} -m lavie.data.prepare.sandbox_child"
        )
    opened.close()


@pytest.mark.slow
@requires_dali
def test_the_command_reports_it(tar, tmp_path):
    app = typer.Typer()
    app.command()(check_command)
    result = typer.testing.CliRunner().invoke(app, [str(tar), "--num-frames", "8", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "check.json").read_text())
    refused = {"DALI does not decode h264 on the CPU": 1}
    assert facts["decoders"] == {"agree": 2, "disagree": 0, "not compared": refused}
    assert "compared with DALI" in result.output
    assert "does not decode h264" in result.output
