"""CLIPSIM: how well clips show their captions, as cosines of CLIP's embeddings (the paper's 5.4, on MSR-VTT).

The cosine is plain: neither times 100 nor clamped at 0, nor scaled by the network. The mean is taken over the frames of
a clip, then over clips.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..distributed import gather_objects, rank, world_size
from ..errors import DataError
from .captions import Captions, match
from .clip_network.embeddings import embed_clips
from .clip_network.network import ClipNetwork, ClipTokens
from .clip_network.protocol import FrameProtocol, hash_of
from .clip_source import Clip, plain_name
from .fvd.rows import Moved
from .measured import by_clip, short_hash

LongCaptions = Literal["cut", "refuse"]
"""What becomes of captions of more tokens than CLIP reads, 77 with the marks of start and end."""


def clipsim(
    clips: Sequence[Clip],
    captions: Captions,
    protocol: FrameProtocol,
    network: ClipNetwork,
    tokens: ClipTokens,
    *,
    source: str,
    long_captions: LongCaptions = "cut",
    keep: Path | None = None,
    moved: Moved | None = None,
) -> dict[str, Any]:
    """Return CLIPSIM as a result (see `measured`), with the cosine of each clip; with several ranks, all call this.

    Args:
        clips: of distinct names.
        captions: by the clips' names.
        protocol: which frames, and how they reach the network.
        network: CLIP.
        tokens: its tokenizer.
        source: where the clips are from.
        long_captions: cut, and counted; or refused.
        keep: see `embed_clips`.
        moved: see `embed_clips`.

    Raises:
        DataError: a clip has no caption, a caption is refused, or no clip can be used.
    """
    # The captions are looked at first, for they cost no time.
    alone = match([clip.name for clip in clips], captions)
    names = sorted(captions.texts)
    ids, long = tokens([captions.texts[name] for name in names])
    if long and long_captions == "refuse":
        raise DataError(
            f"{len(long)} captions are longer than the {network.context} tokens that CLIP reads, as that of "
            f"{names[long[0]]}: shorten them, or --long-captions cut"
        )

    rows = embed_clips(clips, protocol, network, keep=keep, moved=moved)
    by_name = dict(zip(names, ids, strict=True))
    vectors = _vectors([by_name[plain_name(name)] for name in rows.names], network)
    scores = {
        name: float(np.dot(clip.astype(np.float64), text.astype(np.float64)))
        for name, clip, text in zip(rows.names, rows.features, vectors, strict=True)
    }

    notes = list(captions.notes)
    if long:
        notes.append(f"{len(long)} captions cut to {network.context} tokens, as that of {names[long[0]]}")
    if alone:
        notes.append(f"{len(alone)} captions have no clip, as {alone[0]}")
    if rows.dropped:
        notes.append(f"{len(rows.dropped)} clips left out, see data.clips.dropped")
    read = short_hash(by_name)
    steps = protocol.model_dump() | {"long_captions": long_captions}
    return {
        "metric": "clipsim",
        **by_clip(scores),
        "protocol": steps,
        "protocol_hash": hash_of(protocol=steps, weights=network.sha256, captions=read),
        "weights": {"name": network.source, "sha256": network.sha256},
        "data": {
            "clips": {"source": source, "hash": rows.data_hash, "dropped": rows.dropped},
            "captions": {**captions.origin, "hash": read, "without_clip": alone, "cut": [names[i] for i in long]},
        },
        "notes": notes,
    }


def _vectors(rows: Sequence[Sequence[int]], network: ClipNetwork) -> list[np.ndarray]:
    """Return the embeddings of captions as tokens, float32 (D,) each; the ranks share them."""
    own = [list(row) for row in rows[rank() :: world_size()]]
    found: list[np.ndarray] = [np.zeros(0)] * len(rows)
    for other, part in enumerate(gather_objects(list(network.embed_tokens(own).numpy()) if own else [])):
        found[other :: world_size()] = part
    return found
