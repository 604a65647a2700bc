"""The files state/rank-R-of-N.safetensors: what a rank held of the float32 weights and their moments.

A file holds 1-D float32 tensors KIND/PARAMETER, such as exp_avg/conv_in.weight. Its header says which elements of the
flattened parameter they are: `ranges` is JSON of {PARAMETER: [start, end]}. The files of all ranks together hold every
element once. `fill` takes what a rank needs out of them, whatever ranks wrote them.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import CheckpointError

STATE = "state"
"""The folder of these files in a checkpoint."""
RANGES = "ranges"
"""The key of the ranges in a file's header."""


def file_of(rank: int, ranks: int) -> str:
    """Return the path of a rank's file in a checkpoint."""
    return f"{STATE}/rank-{rank:05d}-of-{ranks:05d}.safetensors"


def own_share(start: int, length: int, replicated: bool, rank: int, ranks: int) -> tuple[int, int]:
    """Return which elements a rank writes of those that it holds: [begin, end), counted from the first one it holds.

    What every rank holds whole is divided among them.
    """
    if not replicated:
        return 0, length
    return length * rank // ranks, length * (rank + 1) // ranks


class RangeFiles:
    """The state files of a checkpoint, open for reading. A context manager.

    A file is opened when something is first looked for in it, those of `prefer` first: ranks that are as many as those
    which wrote the files find all they need in one.
    """

    def __init__(self, folder: Path, names: list[str], prefer: str) -> None:
        """Take the names of the files, paths in the checkpoint `folder`, and the name of the one to look at first."""
        self._folder = folder
        self._closed = sorted(names, key=lambda name: (name != prefer, name), reverse=True)
        self._open: list[tuple[Any, dict[str, list[int]]]] = []
        self._begun = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._begun.close()

    @torch.no_grad()
    def fill(self, out: Tensor, kind: str, name: str, start: int) -> None:
        """Copy the elements [start, start + len(out)) of one kind of a parameter's values into a 1-D tensor.

        Raises:
            CheckpointError: the files do not hold all of them.
        """
        missing = out.numel()
        for file, ranges in self._files():
            if not missing:
                break
            first, last = ranges.get(name, (0, 0))
            begin, end = max(first, start), min(last, start + out.numel())
            if begin < end:
                out[begin - start : end - start] = file.get_slice(f"{kind}/{name}")[begin - first : end - first]
                missing -= end - begin
        if missing:
            raise CheckpointError(f"{self._folder / STATE}: {missing} elements of {kind}/{name} are in no file")

    def _files(self) -> Any:
        """Yield each file with its ranges, those that are open already first."""
        yield from self._open
        while self._closed:
            path = self._folder / self._closed.pop()
            try:
                file = self._begun.enter_context(safe_open(path, framework="pt"))
            except (OSError, RuntimeError, SafetensorError) as error:  # torch opens it, without an errno
                raise CheckpointError(f"{path}: cannot be read: {error}") from None
            self._open.append((file, json.loads(file.metadata()[RANGES])))
            yield self._open[-1]
