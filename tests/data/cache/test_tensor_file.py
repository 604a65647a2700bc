"""Files that are no safetensors are refused."""

import pytest

from lavie.data.cache.tensor_file import TensorFile
from lavie.errors import DataError


@pytest.mark.parametrize(
    "header",
    (b"", b"[]", b"{}", b'{"a": 1}', b'{"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}', b"[" * 100_000),
)
def test_headers_that_are_none(tmp_path, header):
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DataError, match=r"x: cannot be read.*mend it"):
        TensorFile(tmp_path / "x", "mend it")
