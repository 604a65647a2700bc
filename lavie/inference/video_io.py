"""Clips as files that people can open: mp4, gif, contact sheets, and the settings beside them.

Every file is written under a temporary name and then renamed, so a reader never meets half a file.
"""

import json
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..data.media.encode import X264
from ..errors import DataError
from ..files import replacing
from .contact_sheet import Panel, contact_sheet

BT709 = 1
"""The number of ITU-R BT.709 in H.264's tables of primaries, transfer functions and matrices (H.273, tables 2 to 4)."""
TV_RANGE = 1
"""FFmpeg's number of the range of levels that video files use: 16 to 235, not 0 to 255."""


def write_mp4(path: str | Path, frames: np.ndarray, fps: float, *, min_side: int = 128) -> None:
    """Write a clip as H.264 (yuv420p, BT.709, near lossless), for any player and browser.

    Args:
        frames: uint8 (F, H, W, 3). Odd sides are padded by repeating the last row or column.
        fps: frames per second.
        min_side: pixels; a clip whose shorter side is below is enlarged by a whole factor, each pixel a block.

    Raises:
        DataError: `frames` is no such array.
    """
    frames = _enlarged(_checked(frames), min_side)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=X264)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        # Without tags players guess the matrix from the size, and colours shift.
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = TV_RANGE
        for pixels in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=TV_RANGE)
            picture.color_primaries = picture.color_trc = BT709
            out.mux(stream.encode(picture))
        out.mux(stream.encode())


def write_gif(path: str | Path, frames: np.ndarray, fps: float, *, min_side: int = 128) -> None:
    """Write a clip as an endless GIF.

    Args:
        frames: uint8 (F, H, W, 3).
        fps: frames per second; GIF counts time in 1/100 s, and the rate is met to within that.
        min_side: as for `write_mp4`.
    """
    pictures = [Image.fromarray(pixels) for pixels in _enlarged(_checked(frames), min_side)]
    # All frames share one palette, taken from all of them: with a palette for each, still backgrounds flicker.
    thumbnails = np.concatenate([np.asarray(p.resize((64, 64), Image.Resampling.NEAREST)) for p in pictures])
    palette = Image.fromarray(thumbnails).quantize(256)
    first, *rest = [picture.quantize(palette=palette) for picture in pictures]
    with replacing(path) as temporary:
        first.save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=rest,
            duration=round(100 / fps) * 10,
            loop=0,
            disposal=1,
        )


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write pixels, uint8 (H, W, 3), as a lossless picture of their size."""
    with replacing(path) as temporary:
        Image.fromarray(_checked(pixels[None])[0]).save(temporary, format="PNG")


def write_sheet(path: str | Path, rows: Sequence[Panel | tuple[str, np.ndarray]], **options: Any) -> None:
    """Write the PNG of `contact_sheet(rows, **options)`: a row of frames for each panel, or (caption, clip)."""
    write_png(path, contact_sheet(rows, **options))


def sample_files(name: str, num_frames: int) -> list[str]:
    """Return the names of the files that `write_sample` writes beside NAME.json; the clip or picture comes first."""
    return [f"{name}.png"] if num_frames == 1 else [f"{name}{suffix}" for suffix in (".mp4", ".gif", ".sheet.png")]


def write_sample(
    folder: str | Path, name: str, frames: np.ndarray, fps: float, settings: Mapping[str, Any]
) -> list[Path]:
    """Write a clip as NAME.mp4, NAME.gif and NAME.sheet.png, or one frame as NAME.png; and its settings as NAME.json.

    The settings come first, and each file appears whole: where all are there, the clip is what the settings say.

    Args:
        folder: created if missing. Files of the same names are replaced.
        name: a plain counter such as "00007". Never a prompt: prompts hold slashes and may be longer than file names.
        frames: uint8 (F, H, W, 3).
        fps: frames per second.
        settings: JSON values. The key "prompt", if present, becomes the caption of the sheet.

    Returns:
        the paths written; the clip or picture itself comes first.

    Raises:
        ValueError: `name` is no safe file name.
        DataError: `frames` is no such array.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ValueError(f"sample name {name!r}: wanted letters, digits, - and _ only, as in 00007")
    frames = _checked(frames)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sidecar = folder / f"{name}.json"
    with replacing(sidecar) as temporary:
        temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    paths = [folder / file for file in sample_files(name, len(frames))]
    if len(frames) == 1:
        write_png(paths[0], frames[0])
    else:
        write_mp4(paths[0], frames, fps)
        write_gif(paths[1], frames, fps)
        write_sheet(paths[2], [(str(settings.get("prompt", name)), frames)])
    return [*paths, sidecar]


def _checked(frames: np.ndarray) -> np.ndarray:
    """Return `frames`, or raise DataError unless they are uint8 (F, H, W, 3)."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise DataError(f"frames: got {frames.dtype} {frames.shape}, wanted uint8 (F, H, W, 3) without empty sides")
    return frames


def _enlarged(frames: np.ndarray, min_side: int) -> np.ndarray:
    """Return frames enlarged by the least whole factor that brings their shorter side to `min_side` pixels."""
    factor = -(-min_side // min(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2) if factor > 1 else frames
