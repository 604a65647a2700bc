"""Every part of a row comes into its batch, at the row's place."""

import numpy as np
import torch

from lavie.data.decoders.clip import DecodedClip, EncodedClip
from lavie.data.feed.batches import Batches, collate


def made_row(position: int, **parts) -> dict:
    """Return a row that names itself in captions, keys and what was dropped."""
    dropped = [{"key": f"lost {position}", "position": position, "reason": "damaged"}] * (position % 2)
    names = {"captions": [f"clip {position}", "image"], "keys": [f"key {position}", "i"], "dropped": dropped}
    return {"position": position, **names, **parts}


def numbers(*shape: int, start: int, dtype=torch.uint8) -> torch.Tensor:
    return (torch.arange(int(np.prod(shape))) + start).view(shape).to(dtype)


def test_every_tensor_of_the_rows_is_stacked():
    """What a loader makes from files, and what it reads from a cache, each with its dtype."""
    kinds = (
        {"pixels": ((5, 2, 4, 3), torch.uint8), "low_res": ((4, 1, 2, 3), torch.uint8)},
        {name: (shape, torch.float16) for name, shape in (("mean", (5, 4, 2, 3)), ("std", (5, 4, 2, 3)))}
        | {"text": ((2, 7, 6), torch.float16)},
        {"mean": ((5, 4, 2, 3), torch.bfloat16), "text": ((2, 7, 6), torch.bfloat16)},
    )
    for kind in kinds:
        rows = [
            made_row(p, **{name: numbers(*shape, start=p, dtype=dtype) for name, (shape, dtype) in kind.items()})
            for p in (4, 7)
        ]
        batch = collate(iter(rows), 2)
        assert batch.keys() == {"captions", "keys", "dropped", "positions", *kind}
        for name, (shape, dtype) in kind.items():
            assert batch[name].dtype == dtype and batch[name].shape == (2, *shape)
            for i in range(2):
                assert torch.equal(batch[name][i], rows[i][name])
        assert batch["captions"] == [["clip 4", "image"], ["clip 7", "image"]]
        assert batch["keys"] == [["key 4", "i"], ["key 7", "i"]]
        assert batch["positions"].dtype == torch.int64 and batch["positions"].tolist() == [4, 7]
        assert [d["key"] for d in batch["dropped"]] == ["lost 7"]


def test_a_clip_that_dali_decodes_has_its_place_before_the_images():
    """Rows whose clip is there already, and rows whose clip is a file yet, in one batch."""
    encoded = EncodedClip("k", b"file", np.array([0, 2, 5]), 2, 4, bt709=False, u=0.5, v=0.5)
    images, whole = numbers(2, 2, 4, 3, start=1), numbers(5, 2, 4, 3, start=100)
    decoded = DecodedClip("k", "why")
    for order in ((0, 1), (1, 0)):
        rows = [made_row(0, pixels=images, clip=encoded), made_row(1, pixels=whole, clip=decoded)]
        batch = collate(iter([rows[i] for i in order]), 2)
        assert batch["pixels"].shape == (2, 5, 2, 4, 3)
        assert torch.equal(batch["pixels"][order.index(0), 3:], images)
        assert torch.equal(batch["pixels"][order.index(1)], whole)
        assert batch["clips"] == [(encoded, decoded)[i] for i in order]


def test_rows_are_asked_for_as_they_are_needed():
    """One batch's rows and no more, which a resumed run counts on."""
    asked = []

    def rows():
        for position in range(6):
            asked.append(position)
            yield made_row(position, pixels=numbers(1, 2, 2, 3, start=position))

    batches = Batches(rows(), 3)
    assert next(batches)["positions"].tolist() == [0, 1, 2] and asked == [0, 1, 2]
    assert next(batches)["positions"].tolist() == [3, 4, 5] and list(batches) == []
