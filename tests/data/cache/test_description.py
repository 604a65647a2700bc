"""A folder whose entries were made with something else takes no more entries."""

import pytest
import torch

from lavie.data.cache.description import write_description
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
