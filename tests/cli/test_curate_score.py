"""`lavie curate score` and `lavie curate dedup`: what is run, what is printed, and what is refused before any work."""

import pytest
import torch
import yaml

from lavie.curation.score import choice
from lavie.errors import ConfigError
from tests.cli.commands import run_lavie
from tests.curation.made_cut import made_units, make_cut, moving
from tests.evaluation.tiny_clip import OUT, write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("curate_score")
    write_clip(folder / "clip")
    torch.save({"weight": torch.ones(1, OUT), "bias": torch.ones(1)}, folder / "head.pth")
    make_cut(folder, {"a.mp4": [moving(0, 8), moving(1, 8)], "b.mp4": [moving(0, 8)]}, films_a_unit=1, measured=True)
    return folder


def run(folder, *words):
    return run_lavie("curate", words[0], folder / "out", *words[1:], "--workers", 1)


@pytest.mark.slow
def test_scores_and_duplicates(folder):
    printed = run(folder, "score", "--clip", folder / "clip", "--head", folder / "head.pth")
    for stage in ("motion", "hash", "clip"):
        assert f"{stage}: 2 units done, 0 were up to date" in printed
    assert "text" not in printed
    kept = yaml.safe_load((folder / "out/curate.yaml").read_text())
    assert kept["clip"]["head"] == str(folder / "head.pth")
    assert "dedup: 2 units done" in run(folder, "dedup")  # by the ratings, which are there

    rows = [row for unit in made_units(folder / "out") for row in unit.read("dedup").to_pylist()]
    [dropped] = [row for row in rows if row["duplicate_of"]]
    best = min(rows[0]["clip"], rows[2]["clip"])
    assert dropped["duplicate_of"] == best and dropped["clip"] in (rows[0]["clip"], rows[2]["clip"])
    again = run(folder, "score", "--only", "hash", "--only", "motion")
    assert "hash: 0 units done, 2 were up to date" in again and "clip" not in again
    status = run_lavie("curate", "status", folder / "out")
    assert all(name in status for name in ("motion", "hash", "text", "clip", "dedup"))
    assert "dedup: 2 units done" in run(folder, "dedup", "dedup.distance=0.1")


@pytest.mark.parametrize(
    "words, match",
    (
        (("--clip", "nowhere"), r"clip.model \(--clip\) nowhere: no such file"),
        (("--clip", "clip", "--head", "nowhere"), r"clip.head \(--head\) nowhere: no such file"),
        (("--scorer", "faces"), r"scorers.faces \(--scorer\): not among the entry points of lavie.scorers"),
        (("--only", "text"), "--only text: wanted one of motion, hash.*: add --ocr"),
        (("--only", "text", "--only", "scan"), "--only scan: wanted one of motion, hash"),
        (("dedup.distance=0.9",), "dedup.distance"),
    ),
)
def test_what_cannot_be_scored_is_refused_and_nothing_is_kept(folder, monkeypatch, words, match):
    monkeypatch.chdir(folder)
    path = folder / "out/curate.yaml"
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ConfigError, match=match):
        run(folder, "score", *words)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_ocr_wants_its_extra(folder, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'lavie\[ocr\]'"):
        run(folder, "score", "--ocr")


@pytest.mark.parametrize("command", ("score", "dedup"))
def test_a_curation_begins_with_films(tmp_path, command):
    with pytest.raises(ConfigError, match="lavie curate scan SRC"):
        run_lavie("curate", command, tmp_path)
    assert not list(tmp_path.iterdir())
