"""The CLIP embedding of every clip: the mean of its frames' unit embeddings, (D,) float32.

A mean over frames of cosines with a text is the product of that mean with the text's unit embedding; the aesthetic
heads are affine, so their mean over frames is the head of that mean. One row for each clip therefore serves both, and
is all that is kept.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...distributed import is_main
from ...errors import DataError
from ..clip_source import Clip, OpenClip
from ..fvd.rows import Kept, Moved, Row, Rows, forget_parts, read_rows, rows_of, write_rows
from .network import ClipNetwork
from .protocol import FrameProtocol, chosen, hash_of


def embed_clips(
    clips: Sequence[Clip],
    protocol: FrameProtocol,
    network: ClipNetwork,
    *,
    keep: Path | None = None,
    moved: Moved | None = None,
) -> Rows:
    """Return a row for each clip, sorted by name, the same on every rank; all ranks call this and share the clips.

    Args:
        clips: of distinct names.
        protocol: which frames, and how they reach the network.
        network: CLIP.
        keep: a .safetensors that the rows go to. Rows of the same bytes, protocol and weights are taken from it, and
            from the part files that a call that was cut has left beside it.
        moved: told the number of clips done and of all, of this rank.

    Raises:
        DataError: no clip can be used, or `keep` holds features of another kind.
    """
    key = hash_of(protocol=protocol.model_dump(), weights=network.sha256)
    if keep is not None and keep.exists() and any(other != key for other, _ in read_rows(keep).values()):
        raise DataError(
            f"--features {keep}: it holds features of another protocol or of other weights: give another file"
        )
    rows = rows_of(clips, partial(_row, protocol=protocol, network=network), Kept(keep, key), moved)
    if not rows.names:
        name, why = next(iter(rows.dropped.items()), ("", "there is none"))
        raise DataError(f"no clip can be used; {len(rows.dropped)} left out, as {name}: {why}")
    rows = rows.by_name()
    if keep is not None and is_main():
        write_rows(keep, {"clips": (key, rows)})
        forget_parts(keep, [key])
    return rows


def _row(_: Clip, clip: OpenClip, protocol: FrameProtocol, network: ClipNetwork) -> Row:
    """Return the row of a clip. Raises DataError where it cannot be made as the protocol says."""
    frames = clip.read(chosen(clip.frames, protocol))
    return Row(clip.sha256, network.embed_frames(frames, protocol).double().mean(dim=0).float().numpy())
