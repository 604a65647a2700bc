"""A long clip as segments that a network makes one after the other, each beginning with frames of the one before."""

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True)
class Segment:
    """One call of the network on the way along a clip; numbers of frames of the whole clip."""

    begin: int
    """The first frame that the network sees: one of the segment before, if there is one."""
    new: int
    """The first frame that the segment adds to the clip."""
    stop: int
    """One behind the last frame that it adds."""


def cut_segments(frames: int, window: int, overlap: int) -> list[Segment]:
    """Return the segments of a clip, the fewest that cover it.

    Args:
        frames: of the clip.
        window: frames that the network sees at once.
        overlap: frames of a segment that the next one is given.

    Raises:
        ConfigError: a segment would add nothing, or be given nothing.
    """
    if frames <= window:
        return [Segment(0, 0, frames)]
    if not 1 <= overlap < window:
        raise ConfigError(
            f"base.overlap: got {overlap} frames that a segment is given of the one before, of the {window} of "
            f"base.window; wanted 1 .. {window - 1} (--set base.overlap=...)"
        )
    segments = [Segment(0, 0, window)]
    while segments[-1].stop < frames:
        new = segments[-1].stop
        segments.append(Segment(new - overlap, new, min(new - overlap + window, frames)))
    return segments
