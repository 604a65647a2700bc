"""How fast films are scanned and cut, beside the usual ways: `make bench-curate FILMS=...`.

All contestants work on one core and on the same film, take turns, and each number is the median of the rounds, so that
ratios hold on a busy machine too. Without FILM, one is rendered. PySceneDetect's own loop stands for finding cuts, and
`ffmpeg`, called once a clip and encoding it, for cutting to the frame, as video2dataset does both.
"""

import argparse
import csv
import datetime
import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.table import Table

from ..config.curate_cut import CutConfig
from ..console import make_console
from ..curation.cut.copying import clip_format, muxed, packets_of
from ..curation.cut.film import cut_film
from ..curation.cut.shots import Shot
from ..curation.demo import render_films
from ..curation.films import list_films, read_films
from ..curation.run import run_stage
from ..curation.scan.film import prepare, scan_film
from ..curation.scan.stage import SCAN
from ..curation.unit import units_of
from ..data.media.streams import open_video
from ..data.prepare.sandbox import Sandbox

RESULTS = Path(__file__).with_name("results-curation.csv")
OURS_SCAN, OURS_CUT = "lavie: scan", "lavie: copy, prove"
"""What others are compared with."""


class Here:
    """An engine that does everything in this process."""

    def map(self, work: Callable[[Any], Any], items: Any, *, gpu: bool = False) -> Iterator[tuple[Any, Any, str]]:
        """Yield each item with its result."""
        for item in items:
            yield item, work(item), ""


class Curated:
    """One film that has been scanned and cut, so that each part of the work can be timed alone."""

    def __init__(self, film: Path, folder: Path) -> None:
        """Scan and cut the film once."""
        (folder / "films").mkdir(parents=True)
        self.path = folder / "films" / film.name
        self.path.symlink_to(film.resolve())
        out = folder / "out"
        list_films(folder / "films", out, lambda path: None)
        for place in ("scan", "cut"):
            report = run_stage(out, place, SCAN.config() if place == "scan" else CutConfig(), Here())
            if report.failed:
                raise SystemExit(f"{film}: {report.failed}")
        [self.unit] = units_of(out.resolve(), read_films(out))
        found = self.unit.read("scan").to_pylist()
        if not found:
            raise SystemExit(f"{film}: refused by the scan: see {out}/rejected")
        self.row = found[0]
        self.clips = self.unit.read("cut").to_pylist()
        self.copied = [Shot(row["start"], row["end"]) for row in self.clips if row["method"] == "copy"]

    @property
    def name(self) -> str:
        """The film in a few words."""
        return f"{self.path.name} ({self.row['codec']}, {self.row['width']} x {self.row['height']})"


def scan(film: Curated) -> float:
    """Return the frames per second of our scan, in the sandbox."""
    with closing(Sandbox(prepare=prepare)) as sandbox:
        sandbox.call(len, b"")  # the start of the child is no part of it
        began = time.perf_counter()
        scan_film(film.path, sandbox)
        return film.row["frames"] / (time.perf_counter() - began)


def find_cuts(film: Curated) -> float:
    """Return the frames per second of PySceneDetect's loop with ContentDetector, as video2dataset calls it."""
    from scenedetect import ContentDetector, SceneManager, open_video

    began = time.perf_counter()
    video = open_video(str(film.path), backend="pyav")
    manager = SceneManager()
    manager.add_detector(ContentDetector(threshold=27, min_scene_len=15))
    manager.detect_scenes(video=video)
    manager.get_scene_list(start_in_scene=True)
    return film.row["frames"] / (time.perf_counter() - began)


def copy_clips(film: Curated) -> float:
    """Return the clips per second of our cutting, of those that can be copied; each is checked by decoding it."""
    arrays = film.unit.frames()[film.row["film"]]
    with closing(Sandbox()) as sandbox:
        sandbox.call(len, b"")
        began = time.perf_counter()
        made = list(cut_film(film.path, sandbox, film.row, arrays, film.copied))
        seconds = time.perf_counter() - began
    if any(clip.error for clip in made):
        raise SystemExit(f"{film.name}: {[clip.error for clip in made if clip.error]}")
    return len(made) / seconds


def only_copy(film: Curated) -> float:
    """Return the clips per second of finding and writing the packets alone, without the decode that proves them."""
    pts = film.unit.frames()[film.row["film"]]["pts"].tolist()
    began = time.perf_counter()
    with film.path.open("rb") as file, open_video(file, None, first=True) as (container, stream):
        next(container.demux(stream))
        format = clip_format(film.row["codec"], container)
        for shot in film.copied:
            packets, why = packets_of(container, stream, pts, shot.start, shot.end)
            assert not why, why
            muxed(packets, stream, format)
    return len(film.copied) / (time.perf_counter() - began)


def encode_clips(film: Curated, folder: Path) -> float:
    """Return the clips per second of one call of ffmpeg for each clip that we copy, which encodes it."""
    rows = [row for row in film.clips if row["method"] == "copy"]
    began = time.perf_counter()
    for row in rows:
        times = ["-ss", f"{row['t0']:.6f}", "-i", str(film.path), "-t", f"{row['t1'] - row['t0']:.6f}"]
        encode = ["-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-threads", "1"]
        command = ["ffmpeg", "-y", "-loglevel", "error", "-threads", "1", *times, *encode, str(folder / "clip.mp4")]
        subprocess.run(command, check=True)
    return len(rows) / (time.perf_counter() - began)


def as_h264(film: Path, folder: Path) -> Path:
    """Return an x264 copy of a film, made by ffmpeg with its defaults."""
    path = folder / f"{film.stem}-x264.mp4"
    command = ["ffmpeg", "-y", "-loglevel", "error", "-i", str(film), "-an", "-c:v", "libx264", str(path)]
    subprocess.run(command, check=True)
    return path


def main() -> None:
    """Parse the command line; print the rates of all contestants on every film, and append them to a CSV file."""
    parser = argparse.ArgumentParser(
        prog="python -m lavie.bench.curation", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("films", nargs="*", type=Path, help="films; default: a rendered one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=RESULTS, help="append the results to this file")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core, for all that is started from here too
    console = make_console()
    if not shutil.which("ffmpeg"):
        console.print("no ffmpeg here: neither its cutting nor an x264 copy of the films takes part", style="yellow")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not args.films:
            render_films(folder / "demo")
        films = args.films or [folder / "demo/squares/logo.mp4"]
        films += [as_h264(film, folder) for film in args.films if shutil.which("ffmpeg") and film.suffix != ".mp4"]
        for number, film in enumerate(films):
            rows = _time_film(Curated(film, folder / str(number)), folder, args.rounds)
            console.print(_table(rows))
            _append(args.csv, rows)


def _time_film(film: Curated, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Let all contestants take turns with a film; return a row of results for each."""
    contest: dict[str, tuple[str, Callable[[], float]]] = {
        OURS_SCAN: ("frames/s", lambda: scan(film)),
        "PySceneDetect: content 27": ("frames/s", lambda: find_cuts(film)),
    }
    if film.copied:
        contest[OURS_CUT] = "clips/s", lambda: copy_clips(film)
        contest["lavie: copy, no proof"] = "clips/s", lambda: only_copy(film)
        if shutil.which("ffmpeg"):
            contest["ffmpeg: encode each clip"] = "clips/s", lambda: encode_clips(film, folder)
    rates: dict[str, list[float]] = {name: [] for name in contest}
    for _, (name, (_, run)) in itertools.product(range(rounds), contest.items()):
        rates[name].append(run())
    ours = {"frames/s": statistics.median(rates[OURS_SCAN]), "clips/s": statistics.median(rates.get(OURS_CUT, [0.0]))}
    return [
        {
            "date": datetime.date.today().isoformat(),
            "film": film.name,
            "contestant": name,
            "clips_copied": f"{len(film.copied)} of {len(film.clips)}",
            "unit": unit,
            "rate": round(statistics.median(rates[name]), 1),
            "least": round(min(rates[name]), 1),
            "most": round(max(rates[name]), 1),
            "ours_to_it": round(ours[unit] / statistics.median(rates[name]), 2),
        }
        for name, (unit, _) in contest.items()
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    """Return the results of one film as a table."""
    table = Table(title=f"{rows[0]['film']}, {rows[0]['clips_copied']} clips copied; one core")
    for name in ("contestant", "rate", "unit", "least", "most", "ours to it"):
        table.add_column(name, justify="left" if name in ("contestant", "unit") else "right")
    for row in rows:
        keys = ("contestant", "rate", "unit", "least", "most", "ours_to_it")
        table.add_row(*(str(row[key]) for key in keys))
    return table


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append results to a CSV file."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
