"""The list of films, and the units that are made of it."""

import os

import pytest

from lavie.curation.films import list_films, read_films
from lavie.errors import ConfigError

LENGTHS = dict(a=50, b=30, c=200, d=20, e=70)


def seconds(path):
    return LENGTHS.get(path.stem)


@pytest.fixture
def src(tmp_path):
    folder = tmp_path / "films"
    (folder / "below").mkdir(parents=True)
    for name in ("a", "b", "c", "below/d", "e"):
        (folder / f"{name}.mp4").write_bytes(name.encode())
    (folder / "a.txt").write_text("a caption")
    return folder


def grouped(found):
    return [[film.film for film in films] for films in found.list.units.values()]


def test_units_are_filled_in_the_order_of_paths(src, tmp_path):
    """50 + 30 s fit into 100 s, 20 more do too; 200 s are a unit alone, and nothing joins it."""
    found = list_films(src, tmp_path / "out", seconds, 100)
    assert grouped(found) == [["a.mp4", "b.mp4", "below/d.mp4"], ["c.mp4"], ["e.mp4"]]
    assert found.new == 5 and found.passed == {"no film: .txt": 1}
    assert read_films(tmp_path / "out") == found.list
    assert [film.seconds for film in found.list.films] == [50, 30, 20, 200, 70]


def test_later_films_make_new_units(src, tmp_path):
    first = grouped(list_films(src, tmp_path / "out", seconds, 100))
    (src / "a0.mp4").write_bytes(b"new")
    (src / "b.mp4").unlink()
    found = list_films(src, tmp_path / "out", seconds, 100)
    assert grouped(found) == [*first, ["a0.mp4"]]
    assert found.new == 1 and found.gone == ("b.mp4",) and found.changed == ()


def test_a_film_without_a_duration_counts_by_its_size(src, tmp_path):
    os.truncate(src / "a.mp4", 500_000)
    found = list_films(src, tmp_path / "out", lambda path: None, 100)
    assert found.list.films[0].seconds == 2.0


def test_the_same_look_writes_nothing(src, tmp_path):
    list_films(src, tmp_path / "out", seconds)
    before = (tmp_path / "out/films.parquet").stat().st_mtime_ns
    list_films(src, tmp_path / "out", seconds)
    assert (tmp_path / "out/films.parquet").stat().st_mtime_ns == before


def test_films_may_move_but_not_mix(src, tmp_path):
    list_films(src, tmp_path / "out", seconds)
    moved = src.rename(tmp_path / "moved")
    found = list_films(moved, tmp_path / "out", seconds)
    assert found.new == 0 and found.list.src == moved
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.mp4").write_bytes(b"x")
    with pytest.raises(ConfigError, match="none of them is in"):
        list_films(tmp_path / "other", tmp_path / "out", seconds)


def test_what_the_curation_makes_is_no_source(src, tmp_path):
    with pytest.raises(ConfigError, match="lies in OUT"):
        list_films(src, src.parent, seconds)
    (src / "out").mkdir()
    (src / "out/made.mp4").write_bytes(b"made")
    assert list_films(src, src / "out", seconds).new == 5


def test_a_curation_begins_with_a_scan(tmp_path):
    with pytest.raises(ConfigError, match="lavie curate scan SRC"):
        read_films(tmp_path)


def test_a_small_set_is_parted_so_that_all_cores_have_work(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    for i in range(300):
        (src / f"{i:03d}.mp4").write_bytes(b"film")

    def units(of_each):
        """Return the number of units of 300 films of so many seconds."""
        return len(list_films(src, tmp_path / f"{of_each}", lambda path: of_each).list.units)

    assert units(1.0) == 5  # no unit is shorter than a minute
    assert units(100.0) == 75  # 64 would hold 4.7 films each
    assert units(4000.0) == 300  # two of these are longer than an hour and a half
