"""Indices for shards that others have made: every file is decoded once, no tar is written to.

A shard is one task: its index is written whole or not at all, so an interrupted run goes on where it stopped, and a
shard whose index fits it is kept. Tasks run in processes, and under `mpirun` on ranks: rank r takes shards r, r + size
and so on.
"""

import json
import multiprocessing
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...launcher import launched_rank
from ..shards.index_file import REMOTE_REMEDY, SUFFIX, Rejected, fingerprint, index_path, read_header, write_index
from ..shards.remote import is_url, redact
from .scan import index_shard


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard."""

    tar: str
    kept: bool = False
    """Whether its index was there and fits."""
    videos: int = 0
    images: int = 0
    rejected: tuple[Rejected, ...] = ()
    fault: str | None = None
    """Why it has no index."""


@dataclass(frozen=True)
class IndexReport:
    """What became of all shards."""

    shards: tuple[ShardReport, ...]
    orphans: tuple[str, ...]
    """Indices whose shards are gone."""

    @property
    def damaged(self) -> list[ShardReport]:
        """The shards that have no index now."""
        return [s for s in self.shards if s.fault is not None]

    @property
    def rejected(self) -> list[Rejected]:
        """What was left out of the others, named as `00000.tar:x.mp4`."""
        return [Rejected(f"{Path(s.tar).name}:{r.name}", r.reason, r.detail) for s in self.shards for r in s.rejected]

    @property
    def reasons(self) -> Counter[str]:
        """How many were rejected for each reason."""
        return Counter(r.reason for r in self.rejected)


def make_indices(
    paths: Sequence[str | Path],
    *,
    out: Path | None = None,
    workers: int = 1,
    done: Callable[[ShardReport, int, int], None] = lambda report, number, total: None,
) -> IndexReport | None:
    """Index the shards of folders, or single tars, beside them or into the folder `out`; see the module.

    workers: processes of this rank; 1 works in this one. `done` hears of each shard of this rank, how many are done,
    and of how many. What was left out is listed in `index.rejected.jsonl` beside the indices. Under `mpirun` rank 0
    returns the report of all and the others None. Raises DataError if a path holds no shards, or if two shards would
    share an index.
    """
    tars = _tars([Path(p) for p in paths], out)
    world = _mpi()
    if world is None:
        return _report(list(_each(tars, out, workers, done)), tars, out)
    try:
        mine = list(_each(tars[world.rank :: world.size], out, workers, done))
        everyone = world.gather(mine)
        return None if everyone is None else _report([s for some in everyone for s in some], tars, out)
    except BaseException:
        traceback.print_exc()
        world.Abort(1)  # the other ranks would wait for this one for ever
        raise


def _tars(paths: list[Path], out: Path | None) -> list[Path]:
    tars: list[Path] = []
    for path in paths:
        if is_url(str(path)):
            raise DataError(f"SRC {redact(str(path))}: a URL. {REMOTE_REMEDY}")
        found = [path] if path.is_file() and path.suffix == ".tar" else sorted(path.glob("*.tar"))
        if not (found or list(path.glob(f"*{SUFFIX}"))):
            raise DataError(f"SRC {path}: wanted a .tar file or a folder that holds some")
        tars += found
    taken: dict[Path, Path] = {}
    for tar in tars:
        other = taken.setdefault(index_path(tar, out), tar)
        if other != tar:
            raise DataError(f"{other} and {tar} would share the index {index_path(tar, out)}: give each its own --out")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    return list(taken.values())


def _each(
    tars: Sequence[Path], out: Path | None, workers: int, done: Callable[[ShardReport, int, int], None]
) -> Iterator[ShardReport]:
    """The reports of `tars`, as they come."""
    reports = (_index_one(tar, out) for tar in tars) if workers == 1 else _in_processes(tars, out, workers)
    for number, report in enumerate(reports, start=1):
        done(report, number, len(tars))
        yield report


def _in_processes(tars: Sequence[Path], out: Path | None, workers: int) -> Iterator[ShardReport]:
    """A process that dies takes its pool with it: what was left then goes through one by one, to find the culprit."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch and av are imported once, not by every process
    left = dict.fromkeys(tars)
    try:
        with ProcessPoolExecutor(workers, context) as pool:
            for future in as_completed([pool.submit(_index_one, tar, out) for tar in tars]):
                report = future.result()
                del left[Path(report.tar)]
                yield report
    except BrokenProcessPool:
        for tar in left:
            with ProcessPoolExecutor(1, context) as pool:
                try:
                    yield pool.submit(_index_one, tar, out).result()
                except BrokenProcessPool:
                    index_path(tar, out).unlink(missing_ok=True)
                    yield ShardReport(str(tar), fault="the process that decoded it was killed or crashed")


def _index_one(tar: Path, out: Path | None) -> ShardReport:
    """Keep or make the index of one shard."""
    path = index_path(tar, out)
    try:
        if kept := _fitting(tar, path, out):
            return kept
        # A stale index of the same size would pass for this shard's.
        path.unlink(missing_ok=True)
        samples, rejected = index_shard(tar)
        write_index(tar, samples, rejected, out)
    except (DataError, OSError) as error:
        return ShardReport(str(tar), fault=str(error))
    videos = sum(s.kind == "video" for s in samples)
    return ShardReport(str(tar), False, videos, len(samples) - videos, tuple(rejected))


def _fitting(tar: Path, path: Path, out: Path | None) -> ShardReport | None:
    """The report of an index that is newer than its tar and made for the same bytes, as far as sizes and ends tell."""
    there = tar.stat()
    try:
        if path.stat().st_mtime_ns < there.st_mtime_ns:
            return None
        header = read_header(path)
    except (OSError, DataError):
        return None
    expected = (None if out is None else str(tar.resolve()), there.st_size)
    if (header.tar, header.tar_bytes) != expected or header.ends != fingerprint(tar):
        return None
    return ShardReport(str(tar), True, header.videos, header.images, header.rejected)


def _report(shards: list[ShardReport], tars: list[Path], out: Path | None) -> IndexReport:
    """The whole, with the rejected listed in each folder of indices."""
    order = {str(tar): number for number, tar in enumerate(tars)}
    shards.sort(key=lambda s: order[s.tar])
    folders = dict.fromkeys(index_path(tar, out).parent for tar in tars)
    for folder in folders:
        some = [s for s in shards if index_path(Path(s.tar), out).parent == folder]
        _list_rejected(folder / "index.rejected.jsonl", IndexReport(tuple(some), ()).rejected)
    return IndexReport(tuple(shards), tuple(str(p) for folder in folders for p in _orphans(folder)))


def _list_rejected(path: Path, rejected: list[Rejected]) -> None:
    if rejected:
        path.write_text("".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in rejected), encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def _orphans(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            elsewhere = read_header(path).tar
        except DataError:
            elsewhere = None
        tar = Path(elsewhere) if elsewhere else path.with_name(path.name.removesuffix(SUFFIX) + ".tar")
        if not tar.is_file():
            yield path


def several_ranks() -> bool:
    """Whether `mpirun` or `srun` started this process as one of several."""
    launched = launched_rank()
    return launched.launcher in ("mpi", "slurm") and launched.world_size > 1


def _mpi() -> Any:
    """The communicator of all ranks, or None where there is but one."""
    if not several_ranks():
        return None
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise DataError(f"`lavie data index` on several ranks needs mpi4py, `pip install mpi4py`: {error}") from None
    launched, world = launched_rank(), MPI.COMM_WORLD
    if world.size != launched.world_size:  # each process would index all shards
        raise DataError(
            f"{launched.world_size} processes were started, but mpi4py sees {world.size}: use the mpirun that mpi4py "
            "was built for, or, with srun, --mpi=pmix"
        )
    return world
