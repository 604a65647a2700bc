"""The benchmark of a curation: each contestant does the work that it is timed for."""

import csv
import shutil

import pytest

from lavie.bench import curation as bench
from tests.curation.cut.films import film, shots

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("bench")
    (folder / "film.mp4").write_bytes(film(shots(), g="20", bf="0"))
    return bench.Curated(folder / "film.mp4", folder / "work")


def test_every_contestant_has_a_rate(curated, tmp_path):
    pytest.importorskip("scenedetect")
    assert len(curated.copied) == 4
    rates = [run(curated) for run in (bench.scan, bench.find_cuts, bench.copy_clips, bench.only_copy)]
    assert min(rates) > 0
    if shutil.which("ffmpeg"):
        assert bench.encode_clips(curated, tmp_path) > 0
        assert (tmp_path / "clip.mp4").stat().st_size > 1000


def test_results_are_kept(curated, tmp_path, monkeypatch):
    rates = iter([600.0, 300.0, 50.0, 900.0, 650.0, 310.0, 52.0, 700.0, 640.0, 320.0, 51.0, 800.0])
    for name in ("scan", "find_cuts", "copy_clips", "only_copy"):
        monkeypatch.setattr(bench, name, lambda film: next(rates))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    rows = bench._time_film(curated, tmp_path, 3)
    assert [(row["contestant"], row["rate"], row["ours_to_it"]) for row in rows] == [
        (bench.OURS_SCAN, 640.0, 1.0),
        ("PySceneDetect: content 27", 310.0, 2.06),
        (bench.OURS_CUT, 51.0, 1.0),
        ("lavie: copy, no proof", 800.0, 0.06),
    ]
    for _ in range(2):
        bench._append(tmp_path / "results.csv", rows)
    with open(tmp_path / "results.csv", newline="") as file:
        assert [row["rate"] for row in csv.DictReader(file)] == ["640.0", "310.0", "51.0", "800.0"] * 2


def test_a_film_that_cannot_be_read_ends_the_benchmark(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(SystemExit, match=r"film\.mp4: refused by the scan"):
        bench.Curated(tmp_path / "film.mp4", tmp_path / "work")
