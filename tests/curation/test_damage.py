"""Files of a curation that are lost or damaged: they are made again, or named; never are films blamed for them."""

import json

import pytest

from lavie.config.curate_cut import CutConfig
from lavie.curation.cut.stage import CUT
from lavie.curation.films import list_films, read_films
from lavie.curation.pictures import look_at_clips
from lavie.curation.run import run_stage
from lavie.curation.shards.write import check_dest
from lavie.curation.stage import standings
from lavie.curation.table import Frames, columns_path, read_made, read_table, save_arrays
from lavie.curation.unit import units_of
from lavie.errors import ConfigError, DataError
from tests.cli.commands import run_lavie
from tests.curation import toy
from tests.curation.made_cut import make_cut, moving


class Here:
    """An engine of this process."""

    def map(self, work, items, *, gpu=False):
        """Yield each item with its result."""
        for item in items:
            yield item, work(item), ""


@pytest.fixture
def unit(tmp_path):
    """The unit of a curation of one film with two clips."""
    out = make_cut(tmp_path, {"cats/a.mp4": [moving(1), moving(2)]})
    return units_of(out, read_films(out))[0]


def test_columns_without_their_clips_are_not_done(unit):
    [standing] = standings(CUT, CutConfig(), [unit])
    assert standing.made is not None
    (unit.out / "clips/000000.tar").unlink()
    [standing] = standings(CUT, CutConfig(), [unit])
    assert standing.made is None and not standing.done
    row = unit.read("cut").to_pylist()[0]
    with pytest.raises(DataError, match=r"clips/000000\.tar: missing: `lavie curate cut"):
        unit.clip_bytes(row)


def test_a_damaged_tar_refuses_no_clip(unit):
    row = unit.read("cut").to_pylist()[1]
    with open(unit.out / "clips/000000.tar", "r+b") as tar:
        tar.seek(row["offset"])
        tar.write(bytes(100))
    looks = look_at_clips(unit, lambda frames: [0])
    assert next(looks).pictures is not None
    with pytest.raises(DataError, match=f"clip {row['clip']} of unit 000000 is not as it was cut: remove the file"):
        next(looks)


def test_damaged_arrays_are_named(tmp_path):
    path = tmp_path / "000000.npz"
    with pytest.raises(DataError, match=r"000000\.npz: missing: `lavie curate scan`"):
        Frames(path)
    save_arrays(path, {"a.mp4": {"luma": moving(1)}})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"000000\.npz: damaged: .*; remove it"):
        Frames(path)["a.mp4"]
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"000000\.npz: damaged"):
        Frames(path)


def test_damaged_tables_are_named(unit):
    films, columns = unit.out / "films.parquet", columns_path(unit.out, "cut", unit.name)
    for path, read in ((films, lambda: read_films(unit.out)), (columns, lambda: read_made(columns))):
        whole = path.read_bytes()
        # Cut off; nothing; a footer that is none, which Arrow reports as an error of the system's without a number.
        footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
        for data in (whole[: len(whole) // 2], b"", whole[:footer] + b"\xff" * 32 + whole[footer + 32 :]):
            path.write_bytes(data)
            with pytest.raises(DataError, match=rf"{path.name}: no (list|columns) of .*; remove it"):
                read()
            with pytest.raises(DataError, match=f"{path.name}: no table"):
                read_table(path)
        path.write_bytes(whole)
        read()


def test_a_source_without_films_is_refused(tmp_path):
    src, out = tmp_path / "films", tmp_path / "out"
    src.mkdir()
    with pytest.raises(ConfigError, match=r"films has no film \(it is empty\): wanted files that end in .*\.mp4"):
        list_films(src, out, lambda path: None)
    (src / "a.doc").touch()
    with pytest.raises(ConfigError, match=r"1 times no film: \.doc"):
        list_films(src, out, lambda path: None)
    assert not out.exists()


def test_what_is_refused_is_told(tmp_path):
    out = tmp_path / "out"
    list_films(toy.films(tmp_path / "films", ("a", "bad1", "bad2")), out, lambda path: 1.0)
    report = run_stage(out, toy.STAGES[0], toy.ToyConfig(), Here())
    assert report.refused == {"bad": 2} and report.examples == {"bad": "bad1.mp4: by its name"}
    again = run_stage(out, toy.STAGES[0], toy.ToyConfig(), Here())
    assert (again.done, again.refused_before, again.refused) == (0, 2, {})


@pytest.mark.parametrize("place", ("out", "films", "out/clips", "out/table/cut", "file", "foreign"))
def test_shards_have_a_folder_of_their_own(unit, tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/x.tar").touch()
    with pytest.raises(ConfigError, match=r"DEST .* give a"):
        check_dest(unit.out, unit.src, tmp_path / place)
    assert check_dest(unit.out, unit.src, unit.out / "shards") is None


def test_a_slip_is_not_what_the_next_command_goes_by(unit, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text(json.dumps({"rules": [{"column": "luna", "min": 3}]}))
    for words in (("select", unit.out, rules), ("quality", unit.out, "quality.columns=[nosuch]")):
        with pytest.raises(ConfigError):
            run_lavie("curate", *words)
    assert not (unit.out / "curate.yaml").exists()
    with pytest.raises(ConfigError, match=r"cut\.nosuch"):
        run_lavie("curate", "scan", unit.src, tmp_path / "new", "cut.nosuch=1")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "words, message",
    (
        (("--shards", "films"), "DEST is SRC"),
        (("--shards", "shards"), "--shards holds clips with captions: set caption.captioner"),
        (("select.rules=[{column: luna, min: 3}]",), "did you mean luma"),
    ),
)
def test_a_run_that_could_not_end_does_not_begin(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    toy.films(tmp_path / "films", ("a",))
    with pytest.raises(ConfigError, match=message):
        run_lavie("curate", "run", "films", "out", *words)
    assert not (tmp_path / "out").exists()
