"""The demo's films through the whole curation: what ends in the shards is what is known to be good in them."""

import json

import pytest
from typer.testing import CliRunner

from lavie.cli.main import app
from lavie.curation.demo import BARS, CAPTIONS, DISSOLVE, HEIGHT, WIDTH, render_films
from lavie.curation.films import read_films
from lavie.curation.select.select import read_selection
from lavie.curation.unit import units_of
from lavie.data.check.check import check
from lavie.data.prepare.scan import index_shard
from lavie.data.shards.index_file import Sample, index_path, read_header, read_index
from lavie.errors import ConfigError
from tests.doc_pages import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The films, and what `lavie curate run` made of them."""
    pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("demo")
    films = render_films(folder / "films")
    (folder / "films.json").write_text(json.dumps([[film.film, film.starts, film.frames] for film in films]))
    found = run(folder)
    assert found.exit_code == 0, found.output
    return folder


def run(folder, *more):
    """Bring the curation of the films up to date."""
    names = [str(folder / name) for name in ("films", "out")]
    options = ["--shards", str(folder / "shards"), "--overwrite", "--workers", "1"]
    changes = [f"caption.captioner=sidecar:{folder / 'films' / CAPTIONS}", "select.min_side=72", *more]
    return CliRunner().invoke(app, ["curate", "run", *names, *options, *changes])


def rows_of(place):
    """Return all clips as the stage cut has them."""
    return [row for unit in units_of(place / "out", read_films(place / "out")) for row in unit.read("cut").to_pylist()]


def truth(place):
    """Return the first frames of the shots and the number of frames of each film."""
    return {name: (starts, frames) for name, starts, frames in json.loads((place / "films.json").read_text())}


def test_all_hard_cuts_are_found_to_the_frame(place):
    for film in ("circles/cuts.mp4", "squares/bars.mp4", "squares/logo.mp4", "triangles/again.webm"):
        starts, frames = truth(place)[film]
        found = [(row["start"], row["end"]) for row in rows_of(place) if row["film"] == film]
        assert found == list(zip(starts, [*starts[1:], frames], strict=True)), film


def test_bars_are_cut_off(place):
    rows = [row for row in rows_of(place) if row["film"] == "squares/bars.mp4"]
    assert {tuple(row["crop"]) for row in rows} == {(0, BARS, WIDTH, HEIGHT - 2 * BARS)}
    assert {(row["width"], row["height"]) for row in rows} == {(WIDTH, HEIGHT - 2 * BARS)}


def test_what_is_dropped_is_dropped_for_its_own_fault(place):
    selection = read_selection(place / "out").to_pylist()
    dropped = {}
    for row in selection:
        if not row["keep"]:
            dropped.setdefault((row["film"], row["dropped_by"]), []).append(row)
    assert {key: len(rows) for key, rows in dropped.items()} == {
        ("squares/logo.mp4", "overlay is false"): 24,
        ("triangles/again.webm", "duplicate_of is empty"): 5,
        ("triangles/dull.mp4", "16 <= luma <= 235"): 1,
        ("triangles/dull.mp4", "frozen <= 0.5"): 1,
    }
    of_cuts = {row["clip"] for row in selection if row["film"] == "circles/cuts.mp4"}
    assert {row["duplicate_of"] for row in dropped["triangles/again.webm", "duplicate_of is empty"]} <= of_cuts


def test_what_was_refused_is_named(place):
    told = {}
    for path in sorted((place / "out/rejected").rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            told.setdefault(path.parent.name, []).append(json.loads(line))
    assert [item["name"] for item in told["scan"]] == ["triangles/damaged.mp4"]
    assert [(item["name"], item["reason"]) for item in told["cut"]] == [
        ("triangles/dull.mp4 frames 85 to 94", "too short")
    ]


def test_the_shards_are_clean_and_hold_what_the_funnel_ends_with(place):
    shards = place / "shards"
    index = index_path(shards / "00000.tar")
    samples = [Sample(shard=str(shards / "00000.tar"), **line) for line in read_index(index, read_header(index))]
    funnel = json.loads((place / "out/select/funnel.json").read_text())
    assert len(samples) == funnel["kept"]["clips"] == 20
    assert funnel["kept"]["hours"] == pytest.approx(sum(sample.duration for sample in samples) / 3600, abs=1e-6)
    found, rejected, _ = index_shard(shards / "00000.tar")
    assert not rejected and found == samples
    report = check([shards / "00000.tar"], num_frames=16, frame_stride=1, decode=4)
    assert not report.findings, report.findings
    assert dict(report.categories) == {"circles": 11, "squares": 8, "triangles": 1}


def test_each_clip_has_the_caption_of_its_shot(place):
    captions = {}
    for line in (place / "films" / CAPTIONS).read_text().splitlines():
        row = json.loads(line)
        captions[row["film"], row["start_frame"]] = row["caption"]
    kept = [row for row in read_selection(place / "out").to_pylist() if row["keep"]]
    starts = {row["clip"]: row["start"] for row in rows_of(place)}
    for row in kept:
        assert row["caption"] == captions[row["film"], starts[row["clip"]]]


def test_the_page_tells_of_it(place):
    text = (place / "out/report/index.html").read_text()
    assert "triangles/damaged.mp4" in text and "Vimeo25M (paper)" in text


def test_docs_name_all_that_lies_there(place):
    page = (ROOT / "docs/curation.md").read_text().split("## What lies where")[1].split("## ")[0]
    names = {f"{path.name}/" if path.is_dir() else path.name for path in (place / "out").iterdir()}
    assert not {name for name in names if f"| `{name}" not in page}
    for folder in ("select", "report"):
        line = next(line for line in page.splitlines() if line.startswith(f"| `{folder}/`"))
        files = [path.name for path in (place / "out" / folder).iterdir() if path.suffix != ".png"]
        assert not [name for name in files if f"`{name}`" not in line]


def test_another_threshold_decodes_nothing(place):
    def written():
        files = [p for name in ("table", "clips", "frames") for p in (place / "out" / name).rglob("*") if p.is_file()]
        return {p: p.stat().st_mtime_ns for p in files}

    before = written()
    found = run(place, "select.rules=[{column: frames, min: 50}]", "select.min_side=null")
    assert found.exit_code == 0, found.output
    after = written()
    changed = {path.parent.name for path in after if after[path] != before.get(path)}
    assert changed <= {"caption"}  # what is kept now and was not before is captioned
    kept = [row for row in read_selection(place / "out").to_pylist() if row["keep"]]
    assert {row["clip"] for row in kept} == {row["clip"] for row in rows_of(place) if row["frames"] >= 50}


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something already"):
        render_films(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_dissolves_mix_two_shots(place):
    starts, frames = truth(place)["circles/dissolves.mp4"]
    assert len(starts) == 6 and all(b - a > DISSOLVE for a, b in zip(starts, [*starts[1:], frames], strict=True))
