"""A folder that is no whole dataset is an error that says what is missing and what mends it."""

from pathlib import Path

import pytest

from lavie.data.shards.find_shards import IndexedShard, find_shards
from lavie.data.shards.index import load_index
from lavie.errors import DataError

pytestmark = pytest.mark.usefixtures("reversed_folders")


def remove_index(tar: Path) -> None:
    """Remove the index of a shard."""
    tar.with_suffix(".index.jsonl").unlink()


def cut_tar(tar: Path) -> None:
    """Cut the last 1024 bytes off a shard."""
    tar.write_bytes(tar.read_bytes()[:-1024])


@pytest.mark.parametrize(
    "damage, message",
    (
        (remove_index, "no index 00000.index.jsonl beside it"),
        (cut_tar, "cut short or replaced"),
    ),
)
def test_a_shard_that_does_not_fit_its_index_is_an_error_with_a_remedy(train_copy, damage, message):
    damage(train_copy / "00000.tar")
    with pytest.raises(DataError, match=message) as error:
        load_index((str(train_copy),))
    assert "lavie data index" in str(error.value)


def test_paths_that_are_no_dataset(demo, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        load_index((str(tmp_path / "nowhere"),))
    with pytest.raises(DataError, match=r"no .tar shards"):
        load_index((str(tmp_path),))
    with pytest.raises(DataError, match="in its folders train, validation"):
        load_index((str(demo),))


def test_a_lost_shard_is_named(train_copy):
    (train_copy / "00000.tar").rename(train_copy / "00001.tar")
    with pytest.raises(DataError, match=r"1 of its shards are gone.*00000.index.jsonl"):
        load_index((str(train_copy),))


@pytest.mark.parametrize("url", ("s3://bucket/train", "https://host/0.tar", "pipe:cat 0.tar", "file:///data"))
def test_only_local_paths_are_read(url):
    with pytest.raises(DataError, match="only local paths"):
        load_index((url,))


@pytest.mark.parametrize("url", (None, "https://host/set/00000.index.jsonl"))
@pytest.mark.parametrize("damage", ("no JSON", '{"format": 1}', "of another shard", "of another size"))
def test_an_index_is_named_by_where_it_came_from(train_copy, url, damage):
    """A remote one by its URL, since its local copy is nothing that a user knows."""
    tar, index = train_copy / "00000.tar", train_copy / "00000.index.jsonl"
    bytes_now = tar.stat().st_size + (damage == "of another size")
    if damage == "of another shard":
        index.write_text(index.read_text().replace('"tar": null', '"tar": "/elsewhere/00000.tar"', 1))
    elif damage != "of another size":
        index.write_text(damage)
    shard = IndexedShard("https://host/set/00000.tar" if url else tar, index, bytes_now, [], url)
    with pytest.raises(DataError) as error:
        shard.header()
    if damage == "of another size":
        begin = f"shard {shard.tar}: {bytes_now} bytes, its index was made for {bytes_now - 1}: cut short or replaced"
    else:
        begin = f"index {url or index}: "
    assert str(error.value).startswith(begin)
    assert str(error.value).endswith(
        "upload the .index.jsonl files beside them" if url else f"`lavie data index {train_copy}` makes it anew"
    )


def test_shards_and_lost_ones_come_by_name(train_copy):
    """However the folder lists them: their order is that of the samples, on every node."""
    for number in (3, 1, 2):
        for end in (".tar", ".index.jsonl"):
            (train_copy / f"0000{number}{end}").write_bytes((train_copy / f"00000{end}").read_bytes())
    tars = [train_copy / f"0000{number}.tar" for number in range(4)]
    assert [shard.tar for shard in find_shards(train_copy)[1]] == tars
    assert load_index((str(train_copy),)).shards == tuple(map(str, tars))
    for tar in tars:
        tar.unlink()
    with pytest.raises(DataError, match=r"its shard 00000\.tar is gone"):
        load_index((str(train_copy),))
