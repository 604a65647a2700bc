"""The stage `hash`: the perceptual hash of each clip, and the overlay of its film."""

from ...config.curate_score import HashConfig
from ..pictures import look_at_clips, midpoints
from ..stage import Done, Stage
from ..unit import Unit
from .dct_hash import picture_hash
from .overlay import AREA, Overlay

WIDTH = 256
"""Pixels across of the pictures that are looked at."""
PARTS = 4
"""The middle of each of so many parts of a clip is hashed."""
SHOT = 1
"""The part whose picture stands for the shot when an overlay is looked for."""

COLUMNS = {"clip": "string", "phash": "list<uint64>", "overlay_area": "float", "overlay": "bool"}
"""phash: a hash of 63 bits for each part, null if the clip cannot be decoded. overlay_area: the share of pixels at
which an edge stays in all shots of the film; overlay: whether it is AREA or more; null for a film of too few shots."""


def work(unit: Unit, config: HashConfig) -> Done:
    """Hash the clips of a unit; one that cannot be decoded is refused by name, and its columns are null."""
    overlays: dict[str, Overlay] = {}
    films, clips, rejected = [], [], []
    hashes: list[list[int] | None] = []
    for look in look_at_clips(unit, lambda frames: midpoints(frames, PARTS), grey_width=WIDTH):
        clips.append(look.row["clip"])
        films.append(look.row["film"])
        if look.pictures is None:
            assert look.rejected is not None
            rejected.append(look.rejected)
            hashes.append(None)
            continue
        found = [picture_hash(picture) for picture in look.pictures]
        hashes.append(found)
        overlays.setdefault(films[-1], Overlay()).add(look.pictures[SHOT], found[SHOT])

    areas = {film: overlay.area() for film, overlay in overlays.items()}
    own = [areas.get(film) for film in films]
    is_overlaid = [None if area is None else area >= AREA for area in own]
    columns = {"clip": clips, "phash": hashes, "overlay_area": own, "overlay": is_overlaid}
    return Done(columns, rejected)


HASH = Stage("hash", 1, ("cut",), HashConfig, COLUMNS, work=work)
