"""A folder whose entries were made with something else takes no more entries."""

import json

import pytest
import torch

from lavie.data.cache.description import read_description, write_description
from lavie.errors import DataError
from tests.data.cache.entries import MADE_WITH, random_entries


def test_another_description_is_refused_with_the_fields_that_differ(filled):
    folder, *_ = filled
    black = {name: entry[0] for name, entry in random_entries(1, 1).items()}
    empty = torch.ones(1, 5, 6)
    with pytest.raises(DataError, match="dtype is float16, this call has float32: change --dtype"):
        write_description(folder, MADE_WITH, black, empty, "float32")
    with pytest.raises(DataError, match="encoded_in is float32, this call has bfloat16: change mixed_precision"):
        write_description(folder, MADE_WITH, black, empty.half(), "bfloat16")
    with pytest.raises(DataError, match=r"OUT .*4x16x24: made for something else: vae/ is 'abc', wanted None"):
        write_description(folder, {"data.fps": 8.0}, black, empty.half(), "float32")


@pytest.mark.parametrize(
    "changes", ({"dtype": "int8"}, {"made": []}, {"dtype": "int8", "made": []}, {"format": 0}, {"format": None})
)
def test_a_description_of_another_kind_cannot_be_read(filled, changes):
    folder, *_ = filled
    path = folder / "cache.json"
    whole = json.loads(path.read_text())
    assert read_description(folder) == whole
    path.write_text(json.dumps(whole | changes))
    with pytest.raises(
        DataError, match=r"cache\.json: (cannot be read:|of format) .*Make the cache again in a new folder"
    ):
        read_description(folder)
    for name in changes:
        path.write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        with pytest.raises(DataError, match=r"cache\.json: cannot be read"):
            read_description(folder)
    path.unlink()
    assert read_description(folder) is None
