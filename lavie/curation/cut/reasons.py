"""Why the clips of a film cannot be copied, whatever their first frame is, told by the facts of the scan."""

from collections.abc import Mapping
from typing import Any

from ...data.media.shown import UPRIGHT
from .copying import CODECS
from .encoding import AS_STORED

CROPPED = "cropped by the container"
"""How the note of a film begins whose container crops it (`decode.REMARKS`)."""


def reasons_of_film(film: Mapping[str, Any]) -> list[str]:
    """Return why a film's clips are encoded, each reason in the words of its class; none if they may be copied.

    Args:
        film: its row in the table of the scan.
    """
    told = {
        f"codec {film['codec']}": film["codec"] not in CODECS,
        f"{film['bit_depth']} bits": film["bit_depth"] > 8,
        f"pixels {film['pix_fmt']}": film["bit_depth"] <= 8 and film["pix_fmt"] not in AS_STORED,
        "high dynamic range": film["transfer"] is not None,
        "black bars": film["crop"] is not None,
        "turned": tuple(film["turn"]) != UPRIGHT,
        "interlaced": film["interlaced"] > 0,
        CROPPED: any(note.startswith(CROPPED) for note in film["notes"]),
    }
    return [reason for reason, holds in told.items() if holds]


def keeps_samples(film: Mapping[str, Any], reasons: list[str]) -> bool:
    """Return whether an encoded clip keeps the film's samples, since a player shows them as they are stored.

    Args:
        film: its row in the table of the scan.
        reasons: of the film.
    """
    harmless = {f"codec {film['codec']}", "black bars"}
    is_square = (film["width"], film["height"]) == (film["stored_width"], film["stored_height"])
    return set(reasons) <= harmless and is_square
