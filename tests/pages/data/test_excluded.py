"""The list of what is left out: written at once, read by runs, and never lost."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from lavie.config.data import DataConfig
from lavie.data.order.exclude import excluded_keys
from lavie.errors import ConfigError
from lavie.pages.data.excluded import Excluded


def test_marks_are_written_at_once_as_runs_read_them(tmp_path):
    path = tmp_path / "lists/exclude.txt"
    excluded = Excluded(path)
    assert not path.exists() and excluded.keys == frozenset()
    for key in ("b", "a c", "d"):
        excluded.mark(key, True)
    excluded.mark("b", False)
    excluded.mark("never marked", False)
    assert path.read_text() == "a c\nd\n" and Excluded(path).keys == {"a c", "d"}
    assert excluded_keys(DataConfig(train=(), fps=8, exclude=str(path))) == excluded.keys


def test_what_others_write_meanwhile_is_kept(tmp_path):
    path = tmp_path / "exclude.txt"
    path.write_bytes(b"z\r\n\n a ")
    ours, theirs = Excluded(path), Excluded(path)
    ours.mark("m", True)
    theirs.mark("n", True)
    with path.open("a") as file:
        file.write("by hand\n")
    ours.mark("m", False)
    ours.mark("a", True)  # stands there already
    assert path.read_bytes() == b"z\r\n\n a \nn\nby hand\n"
    assert ours.keys == theirs.keys == {"z", "a", "n", "by hand"}


def test_viewers_that_mark_at_once_lose_nothing(tmp_path):
    viewers = [Excluded(tmp_path / "exclude.txt") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: viewers[i % 4].mark(f"key {i}", True), range(40)))
    assert viewers[0].keys == {f"key {i}" for i in range(40)}


@pytest.mark.parametrize("key", ("", " a", "a\nb", "a\u2028b"))
def test_a_key_that_fits_on_no_line_is_refused(tmp_path, key):
    excluded = Excluded(tmp_path / "exclude.txt")
    with pytest.raises(ConfigError, match="cannot stand on a line of its own"):
        excluded.mark(key, True)


def test_a_list_that_cannot_be_read_or_written_is_one_line(tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "binary.txt", tmp_path):
        with pytest.raises(ConfigError, match="no file of keys, one a line"):
            Excluded(path)
    (tmp_path / "file").touch()
    excluded = Excluded(tmp_path / "file/exclude.txt")
    with pytest.raises(ConfigError, match="cannot be written"):
        excluded.mark("a", True)
    assert excluded.keys == frozenset()
