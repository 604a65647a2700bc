"""The index of a shard: written whole or not at all, and refused at the first line that is damaged or impossible."""

import json
from pathlib import Path

import pytest

from lavie.data.prepare.indexing import make_indices
from lavie.data.prepare.scan import index_shard
from lavie.data.shards import index_file, table
from lavie.data.shards.index import load_index
from lavie.data.shards.index_file import read_header, read_index, write_index
from lavie.errors import DataError
from tests.data.tars import GOOD, make_tar


def lose_last_line(index: Path) -> None:
    """Remove the last line of an index."""
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))


def cut_last_line(index: Path) -> None:
    """Remove the last 20 characters of an index."""
    index.write_text(index.read_text()[:-20])


def lose_a_field(index: Path) -> None:
    """Remove one field of the fourth sample."""
    header, *lines = map(json.loads, index.read_text().splitlines())
    del lines[3]["sha256"]
    index.write_text("".join(json.dumps(x) + "\n" for x in [header, *lines]))


@pytest.mark.parametrize(
    "damage, message",
    (
        (lose_last_line, r"videos and \d+ images, its header says 24 and 10"),
        (cut_last_line, "line 35: "),
        (lose_a_field, "line 5: wanted the keys"),
    ),
)
def test_a_damaged_index_is_an_error_with_a_remedy(train_copy, damage, message):
    damage(train_copy / "00000.index.jsonl")
    with pytest.raises(DataError, match=message) as error:
        load_index((str(train_copy),))
    assert "lavie data index" in str(error.value)


def test_write_index_leaves_no_partial_file(tmp_path):
    tar = make_tar(tmp_path / "0.tar", GOOD)
    write_index(tar, index_shard(tar)[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.index.jsonl", "0.tar"]
    assert [s.key for s in load_index((str(tmp_path),))] == ["a"]


@pytest.mark.parametrize(
    "changes, fault",
    (
        ({"codec": 264}, "wanted text"),
        ({"caption": "another one"}, "the caption differs from its SHA-256"),
        ({"key": "../clip", "member": "../clip.mp4"}, "an unsafe name"),
        ({"member": "other.mp4"}, "member 'other.mp4': wanted the key"),
        ({"member": "00000.gif"}, "member '00000.gif': wanted the key"),
        ({"kind": "image"}, "kind 'image' with fps"),
        ({"kind": "sound"}, "kind 'sound' with fps"),
        ({"fps": None}, "kind 'video' with fps None"),
        ({"frames": 1.5}, "wanted counts"),
        ({"offset": -512}, "wanted counts"),
        ({"width": True}, "wanted counts"),
        ({"vfr": 0}, "wanted true or false"),
        ({"duration": "1 s"}, "wanted true or false, and seconds"),
        ({"size": 1 << 40}, "do not lie inside the tar"),
        ({"caption_offset": 1 << 40}, "do not lie inside the tar"),
        ({"sha256": "ab"}, "wanted 64 hexadecimal digits"),
        ({"notes": "turned"}, "wanted a list of texts"),
        ({"notes": ["turned", 90]}, "wanted a list of texts"),
    ),
)
def test_a_line_that_cannot_be_true_is_an_error(train_copy, changes, fault):
    path = train_copy / "00000.index.jsonl"
    header, first, *lines = map(json.loads, path.read_text().splitlines())
    path.write_text("".join(json.dumps(line) + "\n" for line in [header, first | changes, *lines]))
    with pytest.raises(DataError, match="line 2: ") as error:
        list(read_index(path, read_header(path)))
    assert fault in str(error.value)


@pytest.mark.parametrize("format", (1, 2, 4))
def test_an_index_of_another_version_is_refused_with_what_makes_it_anew(train_copy, format):
    """One of version 1 named none."""
    path = train_copy / "00000.index.jsonl"
    made = path.read_text()
    header, *lines = made.splitlines(keepends=True)
    assert json.loads(header)["format"] == 3
    old = json.loads(header) | {"format": format}
    if format == 1:
        del old["format"]
    path.write_text(json.dumps(old, ensure_ascii=False) + "\n" + "".join(lines))
    with pytest.raises(DataError, match=rf"of format {format}, wanted 3: .*`lavie data index .*` makes it anew"):
        load_index((str(train_copy),))
    report = make_indices([train_copy])
    assert report is not None and not report.damaged
    assert path.read_text() == made
    assert len(load_index((str(train_copy),))) == len(lines)


def test_a_table_of_an_earlier_version_hides_no_index_of_that_version(train_copy, on_disk, monkeypatch):
    """Both lie as the program of then left them: the table fits its index, and is not taken."""
    path = train_copy / "00000.index.jsonl"
    with monkeypatch.context() as then:
        then.setattr(index_file, "FORMAT", 2)
        then.setattr(table, "VERSION", 1)
        path.write_text(path.read_text().replace('"format": 3', '"format": 2', 1))
        load_index((str(train_copy),))
        assert (train_copy / "index.table").is_file()
    with pytest.raises(DataError, match="of format 2, wanted 3"):
        load_index((str(train_copy),))


def test_an_index_in_a_folder_of_its_own_names_its_tar(tmp_path):
    tar = make_tar(tmp_path / "0.tar", GOOD)
    (tmp_path / "indices").mkdir()
    path = write_index(tar, index_shard(tar)[0], out=tmp_path / "indices")
    assert path == tmp_path / "indices/0.index.jsonl"
    assert read_header(path).tar == str(tar.resolve())
    assert [sample.shard for sample in load_index((str(tmp_path / "indices"),))] == [str(tar)]
