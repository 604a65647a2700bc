"""What clips of `lavie generate` start from besides prompts: images, a video, segments of their own, a length."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..inference.settings import BaseSettings
    from ..inference.start import Start
    from ..inference.text_to_video import TextToVideo


@dataclass(frozen=True)
class StartOptions:
    """The options of the command that say what clips start from, as they were given."""

    image: Path | None = None
    to_image: Path | None = None
    from_video: Path | None = None
    strength: float | None = None
    seconds: float | None = None
    method: str | None = None

    def check(self, overrides: Sequence[str]) -> None:
        """Refuse options that cannot go together, before anything is read.

        Raises:
            ConfigError: names them.
        """
        if self.image and self.from_video:
            raise ConfigError("--image and --from-video both say how the clip begins: wanted one of them")
        if self.strength is not None:
            if not 0 <= self.strength <= 1:
                raise ConfigError(f"--strength: got {self.strength:g}, wanted 0 (keeps the clip) .. 1 (keeps nothing)")
            if self.to_image or not (self.image or self.from_video):
                raise ConfigError(
                    "--strength draws over --image or --from-video: wanted one of them, and no --to-image"
                )
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise ConfigError(f"--seconds: got {self.seconds:g}, wanted more than 0")
        for flag, given, key in (("--seconds", self.seconds, "num_frames"), ("--method", self.method, "method")):
            if given is not None and key in keys_given(overrides).get("base", set()):
                raise ConfigError(f"{flag} and --set base.{key}=... both say it: wanted one of them")

    def overrides(self, base: "TextToVideo", settings: "BaseSettings") -> list[str]:
        """Return the settings that the options stand for, as --set would give them.

        Args:
            base: the sampler of the base stage, on any device.
            settings: its settings without these options.

        Raises:
            ConfigError: the clip would have no frame, or too many, or the network cannot make it without --method.
        """
        from ..inference.settings import MOST_FRAMES

        frames = settings.num_frames if self.seconds is None else round(self.seconds * settings.fps)
        if self.seconds is not None and not 1 <= frames <= MOST_FRAMES:
            least, most = 1 / settings.fps, MOST_FRAMES / settings.fps
            raise ConfigError(
                f"--seconds {self.seconds:g}: {frames:.3g} frames at {settings.fps:g} frames per second: wanted "
                f"{least:.3g} to {most:g} seconds"
            )
        found = [] if self.seconds is None else [f"base.num_frames={frames}"]
        method = self.method
        if method is None and self.seconds is not None and frames > settings.window and settings.method == "whole":
            if self.strength is not None:
                method = "windows"
            elif base.takes_frames:
                method = "recursion"
            else:
                raise ConfigError(
                    f"--seconds {self.seconds:g}: {frames} frames, and the base network was trained on "
                    f"{settings.window}: wanted --method windows, or a network with condition: frames"
                )
        return found if method is None else [*found, f"base.method={method}"]

    def starts(self, settings: "Sequence[BaseSettings]") -> "list[Start]":
        """Return what clips of some settings start from: files are read once for all clips of one length and size.

        Raises:
            ConfigError: as for `start`.
        """
        read: dict[tuple[float, ...], Start] = {}
        starts = []
        for own in settings:
            size = own.num_frames, own.height, own.width, own.fps, own.overlap
            if size not in read:
                read[size] = self.start(own)
            starts.append(read[size])
        return starts

    def start(self, settings: "BaseSettings") -> "Start":
        """Read the files, and return what every clip of these settings starts from.

        Args:
            settings: of the base stage, these options included.

        Raises:
            ConfigError: a file cannot be read, or is too short.
        """
        import numpy as np

        from ..data.prepare.given_media import read_clip, read_still
        from ..inference.start import Draft, GivenFrames, Start

        size, fps = (settings.height, settings.width), settings.fps
        if self.strength is not None:
            if self.from_video:
                clip = read_clip(self.from_video, settings.num_frames, fps, *size, flag="--from-video")
            else:
                assert self.image is not None
                still = read_still(self.image, *size, flag="--image")
                clip = np.repeat(still[None], settings.num_frames, 0)
            return Start(draft=Draft(clip, self.strength))

        frames: list[np.ndarray] = []
        places: list[int] = []
        if self.from_video:
            count = max(1, settings.overlap)
            frames += [*read_clip(self.from_video, count, fps, *size, flag="--from-video", at_end=True)]
            places += range(count)
        for flag, path, place in (("--image", self.image, 0), ("--to-image", self.to_image, -1)):
            if path:
                frames.append(read_still(path, *size, flag=flag))
                places.append(place)
        given = GivenFrames(np.stack(frames), tuple(places)) if frames else None
        return Start(given)

    @property
    def were_given(self) -> bool:
        """Whether one of the options was given."""
        return self != StartOptions()

    @property
    def reads_files(self) -> bool:
        """Whether one of the options names an image or a video."""
        return any((self.image, self.to_image, self.from_video))


def keys_given(overrides: Sequence[str]) -> dict[str, set[str]]:
    """Return the keys that settings such as "vsr.guidance_scale=6" give, by stage."""
    from ..config.overrides import parse_overrides
    from ..inference.settings import CascadeSettings

    tree = parse_overrides(overrides, CascadeSettings)
    return {stage: set(values) for stage, values in tree.items() if isinstance(values, dict)}


def read_segment_prompts(file: Path) -> list[list[str]]:
    """Return the prompts of the segments of clips: a line for each segment, an empty line before the next clip.

    Raises:
        ConfigError: the file cannot be read, or has no prompt.
    """
    from ..inference.prompt_file import require_text

    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--segment-prompts {file}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        require_text(line, f"--segment-prompts {file}, line {number}")
    clips: list[list[str]] = [[]]
    for line in map(str.strip, lines):
        if line:
            clips[-1].append(line)
        elif clips[-1]:
            clips.append([])
    found = [clip for clip in clips if clip]
    if not found:
        raise ConfigError(f"--segment-prompts {file}: no line has a prompt")
    return found
