"""A folder that is no whole dataset is an error that says what is missing and what mends it."""

from pathlib import Path

import pytest

from lavie.data.shards.index import load_index
from lavie.errors import DataError


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
