"""LAION's aesthetic score of clips: a head on CLIP ViT-L/14's embeddings guesses how people rate a picture, 1 to 10.

Two heads are in use, and their numbers do not compare: V1, a linear layer (VBench divides its score by 10), and the
improved predictor "sac+logos+ava1", five linear layers without anything between them. Both are affine.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import sha256_of
from .clip_network.embeddings import embed_clips
from .clip_network.network import ClipNetwork
from .clip_network.protocol import FrameProtocol, hash_of
from .clip_source import Clip
from .finite import require_finite
from .fvd.rows import Moved
from .measured import by_clip

KINDS = {
    "laion_v1_linear": ("",),
    "sac+logos+ava1": ("layers.0.", "layers.2.", "layers.4.", "layers.6.", "layers.7."),
}
"""The heads, each by what the names of its layers begin with, in order."""


def _names(layers: Sequence[str]) -> list[str]:
    """Return the sorted names of the weights of layers."""
    return sorted(f"{layer}{part}" for layer in layers for part in ("weight", "bias"))


class AestheticHead:
    """Linear layers, one behind another, from a unit embedding to a rating."""

    def __init__(self, path: Path) -> None:
        """Read a head. Only plain tensors are read: nothing in the file is run.

        Raises:
            CheckpointError: the file's names are neither head's, the shapes do not fit one another, or a weight is NaN
                or infinite.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"--head {path}: wanted a file of plain tensors (weights_only): {error}") from None
        names = sorted(map(str, state)) if isinstance(state, dict) else []
        kind = next((kind for kind, layers in KINDS.items() if names == _names(layers)), None)
        if kind is None or not all(isinstance(value, Tensor) and value.is_floating_point() for value in state.values()):
            raise CheckpointError(
                f"--head {path}: its keys, {', '.join(names[:4]) or 'none'}, are no aesthetic head's: wanted LAION's "
                "V1 linear layer (weight, bias) or sac+logos+ava1 (layers.0 to layers.7)"
            )
        self.kind, self.sha256 = kind, sha256_of(path)
        require_finite(sorted(state.items()), f"--head {path}")
        layers = KINDS[kind]
        self._layers = [(state[f"{layer}weight"].double(), state[f"{layer}bias"].double()) for layer in layers]
        sizes = [tuple(weight.shape) for weight, _ in self._layers]
        fits = all(len(w.shape) == 2 and b.shape == w.shape[:1] for w, b in self._layers) and sizes[-1][0] == 1
        if not fits or any(before[0] != after[1] for before, after in pairwise(sizes)):
            raise CheckpointError(
                f"--head {path}: layers of {sizes}: wanted each to take what the one before gives, and its own bias"
            )
        self.width = sizes[0][1]

    def __call__(self, embeddings: np.ndarray | Tensor) -> np.ndarray:
        """Return the ratings of unit embeddings (n, D), float64 (n,)."""
        x = torch.as_tensor(embeddings).double()
        for weight, bias in self._layers:
            x = x @ weight.T + bias
        return x[:, 0].numpy()


def aesthetic(
    clips: Sequence[Clip],
    protocol: FrameProtocol,
    network: ClipNetwork,
    head: AestheticHead,
    *,
    source: str,
    keep: Path | None = None,
    moved: Moved | None = None,
) -> dict[str, Any]:
    """Return the mean rating of clips as a result (see `measured`), with that of each clip, a mean over its frames.

    With several ranks, all call this. The arguments are those of `clipsim.clipsim`.

    Raises:
        CheckpointError: the head takes embeddings of another size than the network gives.
        DataError: no clip can be used.
    """
    if head.width != network.width:
        raise CheckpointError(
            f"--head takes {head.width} numbers, --weights gives {network.width}: LAION's heads want CLIP ViT-L/14"
        )
    rows = embed_clips(clips, protocol, network, keep=keep, moved=moved)
    ratings = head(np.stack(rows.features))
    steps = protocol.model_dump() | {"head": head.kind}
    return {
        "metric": "aesthetic",
        **by_clip(dict(zip(rows.names, map(float, ratings), strict=True))),
        "protocol": steps,
        "protocol_hash": hash_of(protocol=steps, weights=network.sha256, head=head.sha256),
        "weights": {"name": network.source, "sha256": network.sha256, "head": head.sha256},
        "data": {"clips": {"source": source, "hash": rows.data_hash, "dropped": rows.dropped}},
        "notes": [f"{len(rows.dropped)} clips left out, see data.clips.dropped"] if rows.dropped else [],
    }
