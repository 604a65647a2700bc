"""Films of a few shots in any codec, whose cuts are known, and what the stages make of them."""

import io
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lavie.config.curate_cut import CutConfig
from lavie.config.curate_scan import ScanConfig
from lavie.curation.films import list_films
from lavie.curation.run import run_stage
from lavie.curation.table import Frames, read_table
from tests.curation.here import Here
from tests.curation.made_cut import made_units, moving

LENGTHS = (20, 20, 25, 19)
"""Frames of the shots. With a keyframe every 20 frames the first three begin at one, and the last does not."""
STARTS = (0, 20, 40, 65)
ENDS = (20, 40, 65, 84)
HEIGHT, WIDTH = 64, 96


def shots(lengths: Sequence[int] = LENGTHS, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Return moving pictures, one behind another, of quite different colours: uint8 (F, height, width, 3)."""
    colours = np.random.default_rng(seed).permutation([[60, 0, 0], [0, 60, 0], [0, 0, 60], [-60, 0, 60], [60, -60, 0]])
    parts = []
    for number, length in enumerate(lengths):
        picture = moving(97 * seed + number, length, height, width, 1).astype(np.int16)
        parts.append((picture + colours[number % len(colours)]).clip(0, 255).astype(np.uint8))
    return np.concatenate(parts)


def film(
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    container: str = "mp4",
    *,
    format: str = "yuv420p",
    source: str = "rgb24",
    times: Sequence[int] | None = None,
    second: tuple[int, int] | None = None,
    sound: str = "",
    tags: Mapping[str, Any] | None = None,
    muxing: Mapping[str, str] | None = None,
    **options: str,
) -> bytes:
    """Return a film of 24 frames per second.

    Args:
        frames: of the film, as PyAV takes them for `source`.
        codec: FFmpeg's name of the encoder.
        container: FFmpeg's name of the container.
        format: of the encoded pixels.
        source: the pixel format of `frames`.
        times: when each frame is shown, in milliseconds, for a rate that varies.
        second: height and width of a second video stream, of black frames.
        sound: FFmpeg's name of the encoder of a sound track, of a tone.
        tags: attributes of the codec's context.
        muxing: options of the container.
        options: of the encoder, with _ for -.
    """
    file = io.BytesIO()
    base = Fraction(1, 24) if times is None else Fraction(1, 1000)
    with av.open(file, "w", format=container, options=dict(muxing or {})) as out:
        stream = out.add_stream(codec, rate=24, options={name.replace("_", "-"): v for name, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], format
        stream.codec_context.time_base = base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        other = out.add_stream("libx264", rate=24) if second else None
        if other is not None:
            other.height, other.width, other.pix_fmt = *second, "yuv420p"
        audio = out.add_stream(sound, rate=48000, layout="mono") if sound else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=source)
            frame.pts, frame.time_base = number if times is None else times[number], base
            for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
                if name in (tags or {}):
                    setattr(frame, name, tags[name])
            out.mux(stream.encode(frame))
            if other is not None:
                black = av.VideoFrame.from_ndarray(np.zeros((*second, 3), np.uint8), format="rgb24")
                black.pts, black.time_base = number, Fraction(1, 24)
                out.mux(other.encode(black))
            if audio is not None:
                kind = audio.codec_context.format.name
                tone = np.sin(np.arange(2000 * number, 2000 * (number + 1)) / 20)[None]
                tone = tone.astype(np.float32) if kind.startswith("flt") else (8000 * tone).astype(np.int16)
                samples = av.AudioFrame.from_ndarray(tone, kind, "mono")
                samples.pts, samples.sample_rate, samples.time_base = 2000 * number, 48000, Fraction(1, 48000)
                out.mux(audio.encode(samples))
        for one in (stream, other, audio):
            if one is not None:
                out.mux(one.encode())
    return file.getvalue()


class Curated:
    """What came of cutting films."""

    def __init__(self, root: Path, films: Mapping[str, bytes | Path], **settings: Any) -> None:
        """Scan and cut films.

        Args:
            root: an empty folder, or one where other settings were tried.
            films: the file of each film by its path.
            settings: of the stage cut.
        """
        self.src, self.out = root / "films", root / "out"
        for name, data in films.items():
            (self.src / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, Path):
                (self.src / name).unlink(missing_ok=True)
                (self.src / name).symlink_to(data)
            else:
                (self.src / name).write_bytes(data)
        list_films(self.src, self.out, lambda path: 1.0)
        self.scan()
        self.cut(**settings)

    def scan(self) -> None:
        """Bring the scan up to date."""
        assert not run_stage(self.out, "scan", ScanConfig(), Here()).failed

    def cut(self, **settings: Any) -> None:
        """Bring the stage cut up to date."""
        assert not run_stage(self.out, "cut", CutConfig(**settings), Here()).failed
        (self._unit,) = made_units(self.out)
        self.rows = read_table(self.out / "table/cut/000000.parquet").to_pylist()

    def of(self, film: str) -> list[dict[str, Any]]:
        """Return the rows of one film."""
        return [row for row in self.rows if row["film"] == film]

    def data(self, row: Mapping[str, Any]) -> bytes:
        """Return the file of a clip."""
        return self._unit.clip_bytes(row)

    def rejected(self, stage: str = "cut") -> list[dict[str, str]]:
        """Return what a stage refused."""
        path = self.out / f"rejected/{stage}/000000.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def scanned(made: Curated, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what the scan found of a film: its facts, and the values of its frames."""
    (facts,) = [row for row in read_table(made.out / "table/scan/000000.parquet").to_pylist() if row["film"] == name]
    return facts, Frames(made.out / "frames/000000.npz")[name]


def decoded(data: bytes) -> list[list[np.ndarray]]:
    """Return the samples of the planes of all frames of a file of 8 bits, as PyAV decodes its first video stream."""
    frames = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            lines = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]
            frames.append([rows[: p.height, : p.width] for rows, p in zip(lines, frame.planes, strict=True)])
    return frames
