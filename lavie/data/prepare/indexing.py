"""Indices for shards that other tools have made: every file is decoded once, and no tar is written to.

Each shard is a task of its own:

1. A shard whose index is newer and fits its bytes is kept.
2. Otherwise the shard is read, and its index is written whole or not at all, so an interrupted run can be repeated.
3. A shard that cannot be read is reported, and stops no other.

Tasks run in processes. Under `mpirun` or `srun`, rank r of n takes the shards r, r + n, r + 2 n and so on.
"""

import multiprocessing
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...launcher import launched_rank, planned_world_size
from ..shards.index_file import (
    REMOTE_REMEDY,
    SUFFIX,
    Rejected,
    fingerprint,
    index_path,
    read_header,
    write_index,
    write_rejected,
)
from ..shards.remote import is_url, redact
from .scan import index_shard

REJECTED_LIST = "index.rejected.jsonl"
"""Name of the file beside the indices that lists what was left out of them."""


@dataclass(frozen=True)
class ShardReport:
    """The result for one shard."""

    tar: str
    """Path of the shard."""
    kept: bool = False
    """Whether an index that fits was found, and nothing was decoded."""
    videos: int = 0
    """Number of videos in the index."""
    images: int = 0
    """Number of images in the index."""
    rejected: tuple[Rejected, ...] = ()
    """Members that were left out of the index."""
    system_files: int = 0
    """Number of members that an operating system has left in the tar."""
    fault: str | None = None
    """Why the shard has no index; None if it has one."""


@dataclass(frozen=True)
class IndexReport:
    """The results for all shards of all ranks."""

    shards: tuple[ShardReport, ...]
    """One report per shard, in the order of the paths that were given."""
    orphans: tuple[str, ...]
    """Paths of indices whose shards are gone."""

    @property
    def damaged(self) -> list[ShardReport]:
        """The reports of the shards that have no index."""
        return [shard for shard in self.shards if shard.fault is not None]

    @property
    def rejected(self) -> list[Rejected]:
        """The members that were left out, named by shard and member as in `00000.tar:x.mp4`."""
        rejected = []
        for shard in self.shards:
            shard_name = Path(shard.tar).name
            rejected += [Rejected(f"{shard_name}:{item.name}", item.reason, item.detail) for item in shard.rejected]
        return rejected

    @property
    def reasons(self) -> Counter[str]:
        """The number of rejected members by reason."""
        return Counter(item.reason for item in self.rejected)

    @property
    def faults(self) -> list[str]:
        """One sentence for each shard without an index and for each index without a shard; empty if all is well."""
        faults = [shard.fault for shard in self.damaged if shard.fault]
        return faults + [f"{path}: its shard is gone: copy it again, or delete the index" for path in self.orphans]


Done = Callable[[ShardReport, int, int], None]
"""A listener, called after each shard of a rank with its report, the number of shards done, and their total."""


def make_indices(
    paths: Sequence[str | Path],
    *,
    out: Path | None = None,
    workers: int = 1,
    done: Done = lambda report, number, total: None,
) -> IndexReport | None:
    """Index shards beside them, or into the folder `out`; the module says how. What was left out is listed beside them.

    Args:
        paths: folders of shards, or single tars.
        out: a folder for the indices, where those of the shards cannot be written.
        workers: processes of this rank; 1 works in the calling process.
        done: called after each shard of this rank.

    Returns:
        The report of all ranks on rank 0, and None on the others.

    Raises:
        DataError: a path holds no shards, or two shards would share an index.
    """
    ranks = planned_world_size()  # refuses a WORLD_SIZE that is no number
    if launched_rank().launcher == "torch" and ranks > 1:
        raise DataError(
            f"torchrun or deepspeed started {ranks} processes, which do not share the work of `lavie data index`: "
            "start it once on a node, where --workers takes all cores, or under mpirun or srun"
        )

    # A process without ranks beside it does all shards, and needs no mpi4py.
    tars = _find_tars([Path(path) for path in paths], out)
    world = _mpi_world()
    if world is None:
        return _finish(list(_index_each(tars, out, workers, done)), tars, out)

    # Of several ranks each takes every n-th shard, and rank 0 puts the reports together.
    try:
        reports = list(_index_each(tars[world.rank :: world.size], out, workers, done))
        reports_of_ranks = world.gather(reports)
        if reports_of_ranks is None:
            return None
        return _finish([report for rank_reports in reports_of_ranks for report in rank_reports], tars, out)
    except BaseException:
        # The other ranks would wait for this one in `gather` for ever.
        traceback.print_exc()
        world.Abort(1)
        raise


def _find_tars(paths: list[Path], out: Path | None) -> list[Path]:
    """Return the shards of `paths` without repetitions, and make the folder `out`."""
    tars: list[Path] = []
    for path in paths:
        if is_url(str(path)):
            raise DataError(f"SRC {redact(str(path))}: a URL. {REMOTE_REMEDY}")
        found = [path] if path.is_file() and path.suffix == ".tar" else sorted(path.glob("*.tar"))
        # A folder of indices alone is taken, so that its orphans are reported.
        if not (found or list(path.glob(f"*{SUFFIX}"))):
            raise DataError(f"SRC {path}: wanted a .tar file or a folder that holds some")
        tars += found

    owner: dict[Path, Path] = {}
    for tar in tars:
        other = owner.setdefault(index_path(tar, out), tar)
        if other != tar:
            raise DataError(f"{other} and {tar} would share the index {index_path(tar, out)}: give each its own --out")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    return list(owner.values())


def _index_each(tars: Sequence[Path], out: Path | None, workers: int, done: Done) -> Iterator[ShardReport]:
    """Index `tars` and yield their reports as they are finished."""
    reports = (_index_one(tar, out) for tar in tars) if workers == 1 else _in_processes(tars, out, workers)
    for number, report in enumerate(reports, start=1):
        done(report, number, len(tars))
        yield report


def _in_processes(tars: Sequence[Path], out: Path | None, workers: int) -> Iterator[ShardReport]:
    """Index `tars` in `workers` processes and yield their reports as they are finished.

    A process that dies takes the whole pool with it and does not say which shard it had. The shards without a report
    then get a process each, one after the other, so that the one that kills its process is found.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch and av are imported once, not by every process
    unfinished = dict.fromkeys(tars)
    try:
        with ProcessPoolExecutor(workers, context) as pool:
            for future in as_completed([pool.submit(_index_one, tar, out) for tar in tars]):
                report = future.result()
                del unfinished[Path(report.tar)]
                yield report
    except BrokenProcessPool:
        for tar in unfinished:
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
        if kept := _kept(tar, path, out):
            return kept
        # A stale index of the same size would pass for this shard's.
        path.unlink(missing_ok=True)
        scan = index_shard(tar)
        write_index(tar, *scan, out=out)
    except (DataError, OSError) as error:
        return ShardReport(str(tar), fault=str(error))
    videos = sum(sample.kind == "video" for sample in scan.samples)
    images = len(scan.samples) - videos
    return ShardReport(str(tar), False, videos, images, tuple(scan.rejected), scan.system_files)


def _kept(tar: Path, path: Path, out: Path | None) -> ShardReport | None:
    """Return the report of the index at `path` if it fits the shard, else None.

    It fits if it is not older than the tar and was made for a tar of this place, this size and these first and last
    bytes. A change in the middle that leaves all of these is not noticed; `lavie data check` finds it.
    """
    tar_facts = tar.stat()
    try:
        if path.stat().st_mtime_ns < tar_facts.st_mtime_ns:
            return None
        header = read_header(path)
    except (OSError, DataError):
        return None
    expected = (None if out is None else str(tar.resolve()), tar_facts.st_size)
    if (header.tar, header.tar_bytes) != expected or header.ends != fingerprint(tar):
        return None
    return ShardReport(str(tar), True, header.videos, header.images, header.rejected, header.system_files)


def _finish(reports: list[ShardReport], tars: list[Path], out: Path | None) -> IndexReport:
    """Return the report of all shards in the order of `tars`; write each folder's list of rejected members."""
    position = {str(tar): number for number, tar in enumerate(tars)}
    reports.sort(key=lambda report: position[report.tar])
    folders = dict.fromkeys(index_path(tar, out).parent for tar in tars)
    orphans: list[str] = []
    for folder in folders:
        in_folder = [report for report in reports if index_path(Path(report.tar), out).parent == folder]
        write_rejected(folder / REJECTED_LIST, IndexReport(tuple(in_folder), ()).rejected)
        orphans += map(str, _orphans(folder))
    return IndexReport(tuple(reports), tuple(orphans))


def _orphans(folder: Path) -> Iterator[Path]:
    """Yield the indices in `folder` whose shard is gone. An index that cannot be read belongs to the tar beside it."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            named_tar = read_header(path).tar
        except DataError:
            named_tar = None
        tar = Path(named_tar) if named_tar else path.with_name(path.name.removesuffix(SUFFIX) + ".tar")
        if not tar.is_file():
            yield path


def several_ranks() -> bool:
    """Whether `mpirun` or `srun` started this process as one of several, which then share the shards."""
    launched = launched_rank()
    return launched.launcher in ("mpi", "slurm") and launched.world_size > 1


def _mpi_world() -> Any:
    """Return MPI's communicator of all ranks, or None if this process is not one of several."""
    if not several_ranks():
        return None
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise DataError(f"`lavie data index` on several ranks needs mpi4py, `pip install mpi4py`: {error}") from None

    # With an MPI of another make every process would be rank 0 of 1, and index all shards.
    launched, world = launched_rank(), MPI.COMM_WORLD
    if world.size != launched.world_size:
        raise DataError(
            f"{launched.world_size} processes were started, but mpi4py sees {world.size}: use the mpirun that mpi4py "
            "was built for, or, with srun, --mpi=pmix"
        )
    return world
