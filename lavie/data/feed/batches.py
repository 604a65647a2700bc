"""Rows gathered into the micro-batches that training takes."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NotRequired, TypedDict

import torch

from ..decoders.clip import DecodedClip, EncodedClip
from .rows import TENSORS, Dropped, Row
from .workers import Workers


class Batch(TypedDict):
    """The rows of one micro-batch. B = train_batch_size, F = num_frames, N = num_images.

    F, H and W are those of the step's bucket, if there are data.buckets. With data.images_alone F is 0, and captions
    and keys are those of the N images. Either `pixels` are present, or, in a run with a cache, `mean`, `std` and
    `text`.
    """

    pixels: NotRequired[torch.Tensor]
    """uint8 (B, F + N, H, W, 3), RGB; the images come last. Pinned where there is a GPU.

    Where DALI decodes: float32 (B, F + N, 3, H, W) in [-1, 1], on the device.
    """
    mean: NotRequired[torch.Tensor]
    """Mean of the autoencoder's posterior, scaled: (B, F + N, C, h, w) in the cache's dtype."""
    std: NotRequired[torch.Tensor]
    """Standard deviation of the posterior, with the shape and dtype of `mean`; absent where latents are certain."""
    text: NotRequired[torch.Tensor]
    """Text features of `captions`: (B, 1 + N, L, D) in the cache's dtype."""
    low_res: NotRequired[torch.Tensor]
    """The clips degraded: uint8 (B, F, H / scale, W / scale, 3). Only if the loader was given a degradation."""
    clips: NotRequired[list[EncodedClip | DecodedClip]]
    """B clips that DALI is to decode, or why PyAV has. DecodedBatches takes them out of the batch."""
    captions: list[list[str]]
    """B lists of 1 + N captions: the clip's, then each image's."""
    positions: torch.Tensor
    """int64 (B,), the global position of each row."""
    keys: list[list[str]]
    """B lists of 1 + N keys of samples: the clip's, then each image's."""
    dropped: list[Dropped]
    """The samples of all rows that were replaced by spares, in the order of the rows."""


class Batches(Iterator[Batch]):
    """Rows gathered into batches of `batch_size`, which divides their number, if they end.

    `close` ends the decoding processes behind the rows, and so does the end of this object's life.
    """

    def __init__(self, rows: Iterator[Row], batch_size: int) -> None:
        self._rows, self._batch_size = rows, batch_size

    def __next__(self) -> Batch:
        first = next(self._rows)
        return collate(chain([first], islice(self._rows, self._batch_size - 1)), self._batch_size)

    def close(self) -> None:
        """End the decoding processes, if there are any."""
        if isinstance(self._rows, Workers):
            self._rows.close()


def collate(rows: Iterator[Row], batch_size: int) -> Batch:
    """Return one batch of `batch_size` rows. Each row is copied to its place before the next one is asked for.

    Where DALI is to decode a row's clip, the row's first F frames of `pixels` are left as the memory was.
    """
    batch: Any = {"captions": [], "positions": torch.empty(batch_size, dtype=torch.int64), "keys": [], "dropped": []}
    for number, row in enumerate(rows):
        clip = row.get("clip")
        # All rows of a batch have room for all frames, whether the clip's are there already or not.
        absent = len(clip.indices) if isinstance(clip, EncodedClip) else 0
        for name in TENSORS:
            if name not in row:
                continue
            tensor: torch.Tensor = row[name]  # type: ignore[literal-required]
            if name not in batch:
                shape = (batch_size, absent + len(tensor), *tensor.shape[1:])
                batch[name] = torch.empty(shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available())
            batch[name][number, absent:] = tensor
        if clip:
            batch.setdefault("clips", []).append(clip)

        batch["captions"].append(row["captions"])
        batch["positions"][number] = row["position"]
        batch["keys"].append(row["keys"])
        batch["dropped"] += row["dropped"]
    return batch
