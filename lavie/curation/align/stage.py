"""The stage `align`: how well each caption fits its clip, by the CLIP that has embedded the clip's frames.

The score is the mean over frames of the cosines of their embeddings with that of the caption. CLIP reads 77 tokens of a
caption; longer ones are cut.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config.curate_caption import AlignWork
from ...errors import CheckpointError, ConfigError, DataError
from ..identity import file_identity
from ..score.clip import load_network
from ..stage import Done, Stage
from ..table import arrow
from ..unit import Unit

if TYPE_CHECKING:
    import pyarrow as pa

    from ...evaluation.clip_network.network import ClipTokens

COLUMNS = {"clip": "string", "clip_score": "float"}
"""clip_score: in -1 to 1; null for a clip without a caption or without embeddings."""


def work(unit: Unit, config: AlignWork) -> Done:
    """Score the captions of a unit.

    Raises:
        ConfigError: no CLIP is named.
        CheckpointError: the CLIP or its tokenizer cannot be read, or they do not fit one another.
        DataError: the embeddings are those of another CLIP.
    """
    if config.model is None:
        raise ConfigError("clip.model is not set: lavie curate score OUT --clip PATH names the CLIP that embeds clips")
    captions = unit.read("caption", ["clip", "caption"]).to_pydict()
    embeddings = unit.read("clip", ["embeddings"])["embeddings"]
    found = np.array(arrow().compute.is_valid(embeddings))
    scored = [i for i, caption in enumerate(captions["caption"]) if caption is not None and found[i]]
    scores: list[float | None] = [None] * len(captions["clip"])
    if scored:
        network = load_network(config.model)
        frames = _embeddings(embeddings, scored)
        if frames.shape[-1] != network.width:
            raise DataError(
                f"the clips have embeddings of {frames.shape[-1]} numbers, and the CLIP of clip.model gives "
                f"{network.width}: `lavie curate score` embeds them anew"
            )
        rows, _ = _tokens(config.tokenizer or config.model, config.model)([captions["caption"][i] for i in scored])
        texts = network.embed_tokens(rows).numpy().astype(np.float64)
        for i, cosines in zip(scored, np.einsum("nfd,nd->nf", frames, texts), strict=True):
            scores[i] = float(cosines.mean())
    return Done({"clip": captions["clip"], "clip_score": scores})


def _embeddings(column: "pa.ChunkedArray", rows: list[int]) -> np.ndarray:
    """Return the embeddings of some clips, of length 1 as far as 16 bits say: float64 (clips, frames, D)."""
    return np.array(column.take(rows).to_pylist(), np.float64)


@functools.lru_cache(maxsize=1)
def _tokens(tokenizer: str, model: str) -> "ClipTokens":
    """Return the tokenizer of a folder for the CLIP of a path.

    Raises:
        CheckpointError: there is none, or it is another network's.
    """
    from ...evaluation.clip_network.network import ClipTokens

    try:
        return ClipTokens(Path(tokenizer), load_network(model))
    except CheckpointError as error:
        raise CheckpointError(f"{error} (align.tokenizer names its folder, by default that of clip.model)") from None


def _identity(config: AlignWork) -> dict[str, Any]:
    """Return what of the settings decides the scores: the contents of the files."""
    return {"model": file_identity(config.model), "tokenizer": file_identity(config.tokenizer)}


ALIGN = Stage("align", 1, ("cut", "clip", "caption"), AlignWork, COLUMNS, work=work, identity=_identity, gpu=True)
