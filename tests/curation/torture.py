"""Kill a curation in every stage, again and again, and compare what it ends with: `make curate-torture`.

1. Films are rendered, and curated undisturbed: table, clips, selection and shards.
2. The same films are curated again. In each stage in turn, workers that are writing are killed with SIGKILL, and the
   whole run, at random moments; whatever a stage has finished is deleted in between, so that it is at work again.
3. Two runs work on one folder at once.
4. Afterwards every file must equal the undisturbed one, nothing unfinished may lie about, and a further run must do
   nothing.
5. A film of three hours is curated, and no process may take half a GiB: the one that works and the one that decodes
   stay below one GiB together.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from lavie.curation.demo import CAPTIONS, render_films
from lavie.data.media.encode import encode_mp4

STAGES = ("scan", "cut", "motion", "hash", "dedup", "caption", "shards")
PATIENCE = 600.0
"""Seconds that one stage may take to be at work, or a run to end."""


def command(films: Path, folder: Path) -> list[str]:
    """Return the command of a run, with its table, selection and shards below `folder`."""
    run = [sys.executable, "-m", "lavie.cli", "curate", "run", str(films), str(folder / "out")]
    options = [f"caption.captioner=sidecar:{films / CAPTIONS}", "select.min_side=72", "shards.shard_bytes=300000"]
    return [*run, *options, "--shards", str(folder / "shards"), "--overwrite", "--workers", "2"]


def start(films: Path, folder: Path) -> subprocess.Popen:
    """Start a run as the leader of a group of processes."""
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command(films, folder), stdout=log, stderr=log, start_new_session=True)


def finish(run: subprocess.Popen, folder: Path) -> None:
    """Wait for the end of a run, which must be a good one."""
    code = run.wait(PATIENCE)
    assert code == 0, f"the run ended with {code}:\n{(folder / 'log.txt').read_text()[-3000:]}"


def at_work(folder: Path, stage: str) -> list[int]:
    """Return the processes that write files of a stage now; the folder of unfinished files names each."""
    where = folder / "shards/partial" if stage == "shards" else folder / "out/partial"
    name = "shard" if stage == "shards" else stage
    names = [path.name for path in where.glob(f"{name}[.-]*")] if where.is_dir() else []
    return [int(name.rsplit("-", 2)[1]) for name in names]


def forget(folder: Path, stage: str, rng: random.Random) -> None:
    """Delete what a stage has finished for some units, so that it is done again."""
    pattern = "shards/*.index.jsonl" if stage == "shards" else f"out/table/{stage}/*.parquet"
    for path in sorted(folder.glob(pattern)):
        if stage == "dedup" or rng.random() < 0.7:
            path.unlink(missing_ok=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a curation and its shards, but not the log, the page's cache and what was last read."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    names = [(p.relative_to(folder).as_posix(), p) for p in found]
    return {name: p.read_bytes() for name, p in names if not name.startswith(("log.txt", "out/cache/"))}


def torture(kills: int, seed: int, folder: Path) -> Counter[str]:
    """Do it; return how often workers and whole runs were killed, by stage."""
    rng, films = random.Random(seed), folder / "films"
    render_films(films)
    finish(start(films, folder / "calm"), folder / "calm")
    print(f"undisturbed: {len(contents(folder / 'calm'))} files", flush=True)

    disturbed, counts, run = folder / "disturbed", Counter[str](), None
    for number in range(kills):
        stage = STAGES[number % len(STAGES)]
        deadline = time.monotonic() + PATIENCE
        forget(disturbed, stage, rng)
        while True:
            assert time.monotonic() < deadline, f"{stage} was never at work within {PATIENCE:g} s"
            if run is None or run.poll() is not None:
                if run is not None and run.returncode == 0:
                    forget(disturbed, stage, rng)
                run = start(films, disturbed)
            if working := at_work(disturbed, stage):
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.2)
        whole = rng.random() < 1 / 3
        try:
            if whole:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
            else:
                os.kill(rng.choice(at_work(disturbed, stage) or working), signal.SIGKILL)
            counts[f"{stage}, {'the whole run' if whole else 'a worker'}"] += 1
        except ProcessLookupError:
            counts[f"{stage}, too late"] += 1
    if run is not None and run.poll() is None:
        run.wait(PATIENCE)

    # Two at once, of which each may find the other's work done.
    for stage in STAGES:
        forget(disturbed, stage, rng)
    both = [start(films, disturbed), start(films, disturbed)]
    for run in both:
        finish(run, disturbed)

    left = [path for name in ("out/partial", "shards/partial") for path in (disturbed / name).glob("*")]
    assert not left, f"unfinished files lie about: {left}"
    expected, found = contents(folder / "calm"), contents(disturbed)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    assert not different, f"{len(different)} files differ from the undisturbed run's, as {different[:5]}"
    before = {path: path.stat().st_mtime_ns for path in disturbed.glob("out/table/*/*.parquet")}
    finish(start(films, disturbed), disturbed)
    after = {path: path.stat().st_mtime_ns for path in disturbed.glob("out/table/*/*.parquet")}
    assert before == after, "a further run has done units again"
    print(f"{len(expected)} files equal those of the undisturbed run; a further run did nothing", flush=True)
    return counts


def long_film(hours: float, folder: Path) -> float:
    """Curate a film of so many hours, and return the largest memory of one process, GiB."""
    films = folder / "long/films"
    films.mkdir(parents=True)
    frames = int(hours * 3600 * 24)
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (40, 36 // 4, 64 // 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    pictures = (np.roll(scenes[i // 100 % 40], i % 100, 1) for i in range(frames))
    (films / "long.mp4").write_bytes(encode_mp4(pictures, 24.0, gop=24))
    run = [sys.executable, "-m", "lavie.cli", "curate", "run", str(films), str(folder / "long/out"), "--workers", "1"]
    done = subprocess.run([*run, "select.rules=[{column: frames, min: 16}]"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    assert largest < 0.5, f"a process took {largest:.2f} GiB"
    assert f"{frames // 100}" in done.stdout, done.stdout
    return largest


def main() -> None:
    """Parse the options, and print how often what was killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, default=3.0, help="of the long film")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.hours:
            largest = long_film(options.hours, Path(folder))
            print(f"a film of {options.hours:g} hours: {largest:.2f} GiB in the largest process", flush=True)
        counts = torture(options.kills, options.seed, Path(folder)) if options.kills else Counter()
    for what, number in sorted(counts.items()):
        print(f"killed in {what}: {number}")


if __name__ == "__main__":
    main()
