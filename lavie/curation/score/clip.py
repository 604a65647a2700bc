"""The stage `clip`: embeddings of each clip's frames by a CLIP on the disk, and aesthetic ratings of them."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config.curate_score import ClipConfig
from ...errors import CheckpointError, ConfigError
from ..identity import file_identity
from ..pictures import look_at_clips, midpoints
from ..stage import Done, Stage
from ..unit import Unit

if TYPE_CHECKING:
    from ...evaluation.aesthetic import AestheticHead
    from ...evaluation.clip_network.network import ClipNetwork

PARTS = 8
"""The middle of each of so many parts of a clip is embedded."""
RATED = 3
"""The middle of each of so many parts is rated: at 1/6, 1/2 and 5/6 of the clip."""

COLUMNS = {
    "clip": "string",
    "embeddings": "list<list<halffloat>>",
    "aesthetic_mean": "float",
    "aesthetic_min": "float",
}
"""embeddings: PARTS embeddings of length 1; null if the clip cannot be decoded. aesthetic_mean, aesthetic_min: of the
ratings of RATED frames, about 1 to 10; null without a head."""


def work(unit: Unit, config: ClipConfig) -> Done:
    """Embed and rate the clips of a unit; one that cannot be decoded is refused by name, and its columns are null."""
    if config.model is None:
        raise ConfigError("clip.model is not set: lavie curate score OUT --clip PATH names the CLIP that embeds clips")
    network = load_network(config.model)
    head = _head(config.head, network) if config.head else None
    protocol = network.frame_protocol()
    rows: list[dict[str, Any]] = []
    rejected = []

    def wanted(frames: int) -> list[int]:
        """Return the frames that are looked at, each once."""
        return sorted({*midpoints(frames, PARTS), *(midpoints(frames, RATED) if head else ())})

    for look in look_at_clips(unit, wanted, decoders=config.decoders):
        row = dict.fromkeys(COLUMNS) | {"clip": look.row["clip"]}
        rows.append(row)
        if look.pictures is None:
            assert look.rejected is not None
            rejected.append(look.rejected)
            continue
        frames = look.row["frames"]
        found = network.embed_frames(look.pictures, protocol).numpy()
        places = wanted(frames)
        row["embeddings"] = list(found[[places.index(i) for i in midpoints(frames, PARTS)]].astype(np.float16))
        if head:
            ratings = head(found[[places.index(i) for i in midpoints(frames, RATED)]])
            row |= {"aesthetic_mean": float(ratings.mean()), "aesthetic_min": float(ratings.min())}
    return Done({name: [row[name] for row in rows] for name in COLUMNS}, rejected)


@functools.lru_cache(maxsize=1)
def load_network(model: str) -> "ClipNetwork":
    """Return the CLIP of a path, on the GPU if there is one; the last one is kept for the next unit.

    Raises:
        CheckpointError: there is none that can be read.
    """
    import torch

    from ...evaluation.clip_network.network import load_clip

    try:
        return load_clip(Path(model), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("--weights", "clip.model (--clip)")) from None


@functools.lru_cache(maxsize=1)
def _head(path: str, network: "ClipNetwork") -> "AestheticHead":
    """Return the aesthetic head of a path.

    Raises:
        CheckpointError: there is none that can be read, or it takes embeddings of another size.
    """
    from ...evaluation.aesthetic import AestheticHead

    try:
        head = AestheticHead(Path(path))
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("--head", "clip.head (--head)")) from None
    if head.width != network.width:
        raise CheckpointError(
            f"clip.head (--head) {path} takes {head.width} numbers, and the CLIP of clip.model (--clip) gives "
            f"{network.width}: LAION's heads want ViT-L/14"
        )
    return head


def _identity(config: ClipConfig) -> dict[str, Any]:
    """Return what of the settings decides the values: the contents of the files."""
    return {"model": file_identity(config.model), "head": file_identity(config.head)}


CLIP = Stage("clip", 1, ("cut",), ClipConfig, COLUMNS, work=work, identity=_identity, gpu=True)
