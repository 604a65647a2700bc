"""The reading of single rows of the tensors in a safetensors file, without loading or mapping the rest.

A file that shrinks under a memory map ends the process; one that is read by offset gives an error.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ..shards.offset_file import OffsetFile

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "U8": torch.uint8, "U32": torch.uint32}
"""The dtypes that are read, by safetensors' names."""


class TensorFile:
    """A safetensors file whose tensors all have the same number of rows.

    Opening and reading raise DataError, with `remedy` as its last sentence, where the file cannot be read.

    Attributes:
        path: the file.
        rows: the first dimension of every tensor.
        metadata: the file's own metadata.
        dtypes: the dtype of each tensor, by its name.
        row_shapes: the shape of one row of each tensor, by its name.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        """Open a file and read its header."""
        self.path, self._remedy = path, remedy
        try:
            self._file = OffsetFile(path)
            file_size = self._file.size()
            header_size = int.from_bytes(self._read_exactly(0, 8), "little")
            if header_size > file_size:
                raise ValueError(f"a header of {header_size} bytes in a file of {file_size}")
            header = json.loads(self._read_exactly(8, header_size))
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self.dtypes = {name: DTYPES[tensor["dtype"]] for name, tensor in header.items()}
            self.row_shapes = {name: tuple(tensor["shape"][1:]) for name, tensor in header.items()}
            self._starts = {name: 8 + header_size + tensor["data_offsets"][0] for name, tensor in header.items()}

            # A file cut short by a full disk is found here, not at some entry in the middle of a run.
            counts = {tensor["shape"][0] for tensor in header.values()}
            if len(counts) != 1:
                raise ValueError(f"tensors of {sorted(counts)} rows: wanted one number")
            [self.rows] = counts
            if sum(map(self._tensor_size, header)) != file_size - 8 - header_size:
                raise ValueError(f"its {file_size} bytes do not fit its header")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read: {error!r}. {remedy}") from None

    def read_row(self, name: str, i: int) -> bytes:
        """Return the bytes of row i of a tensor."""
        size = self._row_size(name)
        return self._read(self._starts[name] + i * size, size)

    def read_tensor(self, name: str) -> Tensor:
        """Return a whole tensor, read into memory."""
        data = bytearray(self._read(self._starts[name], self._tensor_size(name)))
        return self.as_tensor(name, data, (self.rows, *self.row_shapes[name]))

    def as_tensor(self, name: str, data: bytearray, shape: tuple[int, ...]) -> Tensor:
        """Return bytes that were read from the tensor `name` as a tensor of its dtype and the given shape."""
        return torch.frombuffer(data, dtype=self.dtypes[name]).view(shape) if data else torch.empty(shape)

    def map_array(self, name: str) -> np.ndarray:
        """Return a tensor of uint8 or uint32, memory-mapped: (rows, *row shape)."""
        dtype = np.dtype({torch.uint8: "u1", torch.uint32: "<u4"}[self.dtypes[name]])
        shape = (self.rows, *self.row_shapes[name])
        if not self.rows:
            return np.empty(shape, dtype)
        return np.memmap(self.path, dtype, "r", self._starts[name], shape)

    def _row_size(self, name: str) -> int:
        """Return the bytes of one row of a tensor."""
        return math.prod(self.row_shapes[name]) * self.dtypes[name].itemsize

    def _tensor_size(self, name: str) -> int:
        """Return the bytes of a tensor."""
        return self.rows * self._row_size(name)

    def _read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`. Raises DataError."""
        try:
            return self._read_exactly(offset, size)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}. {self._remedy}") from None

    def _read_exactly(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`. Raises OSError, or ValueError if there are fewer."""
        data = self._file.read(offset, size)
        if len(data) != size:
            raise ValueError(f"{len(data)} of {size} bytes at {offset}")
        return data
