"""Reading single rows of the tensors in a safetensors file, without loading or mapping the rest.

A file that shrinks under a memory map ends the process; one that is read by offset gives an error.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "U8": torch.uint8, "U32": torch.uint32}
"""The dtypes that are read, by safetensors' names."""


class TensorFile:
    """Tensors that all have `rows` rows. Raises DataError, `remedy` at its end, where the file cannot be read."""

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self._remedy = path, remedy
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed with the last reference to this object)
            size = os.fstat(self._file.fileno()).st_size
            length = int.from_bytes(self._pread(0, 8), "little")
            if length > size:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(self._pread(8, length))
            self.notes: dict[str, str] = header.pop("__metadata__", {})
            """The file's own metadata."""
            self.dtypes = {name: DTYPES[tensor["dtype"]] for name, tensor in header.items()}
            self.shapes = {name: tuple(tensor["shape"][1:]) for name, tensor in header.items()}
            """Of a row."""
            self._starts = {name: 8 + length + tensor["data_offsets"][0] for name, tensor in header.items()}
            counts = {tensor["shape"][0] for tensor in header.values()}
            if len(counts) != 1:
                raise ValueError(f"tensors of {sorted(counts)} rows: wanted one number")
            [self.rows] = counts
            if sum(map(self._whole, header)) != size - 8 - length:
                raise ValueError(f"its {size} bytes do not fit its header")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read: {error!r}. {remedy}") from None

    def row(self, name: str, i: int) -> bytes:
        """The bytes of row i of a tensor."""
        size = self._row(name)
        return self._part(self._starts[name] + i * size, size)

    def whole(self, name: str) -> Tensor:
        """A tensor, read into memory."""
        data = bytearray(self._part(self._starts[name], self._whole(name)))
        return self.tensor(name, data, (self.rows, *self.shapes[name]))

    def tensor(self, name: str, data: bytearray, shape: tuple[int, ...]) -> Tensor:
        """`data` as what the tensor `name` is made of."""
        return torch.frombuffer(data, dtype=self.dtypes[name]).view(shape) if data else torch.empty(shape)

    def mapped(self, name: str) -> np.ndarray:
        """A tensor of integers, memory-mapped: (rows, *row)."""
        dtype = np.dtype({torch.uint8: "u1", torch.uint32: "<u4"}[self.dtypes[name]])
        shape = (self.rows, *self.shapes[name])
        if not self.rows:
            return np.empty(shape, dtype)
        return np.memmap(self.path, dtype, "r", self._starts[name], shape)

    def _row(self, name: str) -> int:
        return math.prod(self.shapes[name]) * self.dtypes[name].itemsize

    def _whole(self, name: str) -> int:
        return self.rows * self._row(name)

    def _part(self, offset: int, size: int) -> bytes:
        try:
            return self._pread(offset, size)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}. {self._remedy}") from None

    def _pread(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, offset)
        while len(data) < size and (more := os.pread(self._file.fileno(), size - len(data), offset + len(data))):
            data += more  # some network file systems return less than was asked for
        if len(data) != size:
            raise ValueError(f"{len(data)} of {size} bytes at {offset}")
        return data
