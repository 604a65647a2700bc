"""The packing of captioned media into shards.

Every file is decoded in full here, once, so that training meets no surprise. Media bytes are kept as they are, except
those of GIFs (see `gif`) and of parts of films (see `segments`). What cannot train is left out, counted, and listed
with its reason in `rejected.jsonl`.

Files are examined side by side, each worker with a child process that decodes, and written in the order of the source,
so that the shards do not depend on the number of workers. `packed.jsonl` records what is finished (`pack_record`): a
packing that was stopped goes on after its last finished shard and ends with the same shards, and a later one adds what
is new as further shards. Shards are never rewritten: what has changed or gone in the source is told.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from queue import SimpleQueue

from ...caption_limit import CaptionLimit, clip_words
from ...errors import DataError
from ..shards.index_file import Rejected, write_rejected
from .captioned_file import CaptionedFile, Passed
from .earlier import Earlier
from .examine import Clip, Examined, Films, examine
from .pack_record import Line, open_record
from .sandbox import Sandbox
from .sources import Found, read_source
from .writer import SHARD_BYTES, ShardWriter

Progress = Callable[[int, int | None], None]
"""A listener, called with the number of entries done and their total, None where that is not known."""


@dataclass(frozen=True)
class PackReport:
    """The result of packing one source."""

    videos: int
    """Number of videos packed."""
    images: int
    """Number of images packed."""
    converted: tuple[str, ...]
    """Names of the GIFs that were stored as mp4 or png."""
    rejected: tuple[Rejected, ...]
    """Files that cannot train, in the order of the source; those that an earlier call has found too."""
    shards: tuple[Path, ...]
    """Paths of the shards written now, in order."""
    kept: int = 0
    """Number of files that an earlier call has packed, and that are as they were."""
    changed: tuple[Rejected, ...] = ()
    """Packed files that have changed since, or are gone from the source: the shards hold what they were."""
    long_captions: int = 0
    """Number of files packed now whose captions are longer than the given limit."""
    passed: Counter[str] = field(default_factory=Counter)
    """Number of things beside the samples, by what they are counted as."""

    @property
    def reasons(self) -> Counter[str]:
        """The number of rejected files by reason."""
        return Counter(item.reason for item in self.rejected)


def pack(
    src: str | Path,
    out: str | Path,
    *,
    num_frames: int,
    fps: float | None = None,
    frame_stride: int | None = None,
    limit: CaptionLimit | None = None,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> PackReport:
    """Write the captioned media of a folder, table or set of shards as shards with indices.

    Args:
        src: the source, in one of the shapes of `lavie.data.prepare.sources`.
        out: the folder for the shards, made if need be; shards that were packed there stay, and new files are added.
        num_frames: frames of a training clip. Videos that hold no clip of so many frames are rejected.
        fps: frames per second of a training clip; either this or the next is given.
        frame_stride: a training clip takes every so many-th frame.
        limit: how long a caption may be; longer ones are packed, and counted. Default: CLIP's, in words.
        shard_bytes: size in bytes at which a shard is closed.
        workers: how many files are examined side by side.
        progress: called after each entry of the source.

    Raises:
        DataError: `src` is no source, or is `out` itself, or `out` holds shards of another origin or of other options,
            or nothing is left to pack.
    """
    if not Path(src).exists():
        raise DataError(f"SRC {src}: no such file or folder")
    source, target = Path(src).resolve(), Path(out).resolve()
    if source == target:
        raise DataError(f"SRC and OUT are both {src}: shards beside the media would be the source of the next call")
    found = list(read_source(Path(src)))
    if target.is_relative_to(source):  # what an earlier call has packed is no source
        own = target.relative_to(source)
        found = [item for item in found if not PurePath(item.name).is_relative_to(own)]
    return pack_files(
        found,
        out,
        num_frames=num_frames,
        fps=fps,
        frame_stride=frame_stride,
        limit=limit,
        shard_bytes=shard_bytes,
        workers=workers,
        src=str(Path(src).resolve()),
        progress=progress,
    )


def pack_files(
    files: Iterable[Found],
    out: str | Path,
    *,
    num_frames: int,
    fps: float | None = None,
    frame_stride: int | None = None,
    limit: CaptionLimit | None = None,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    src: str = "",
    progress: Progress = lambda done, total: None,
) -> PackReport:
    """Write captioned files, wherever they come from, as `pack` writes those of a source.

    Args:
        files: the files in the order in which they are packed. Those that are rejected already join the report.
        out: as for `pack`, like the other arguments.
        src: what tells the source of the files from others that are packed into the same folder.
    """
    out, clip, limit = Path(out), Clip(num_frames, fps, frame_stride), limit or clip_words()
    total = len(files) if isinstance(files, Sized) else None
    counts: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    converted: list[str] = []
    rejected: list[Rejected] = []
    names = {file.name for file in files if isinstance(file, CaptionedFile)} if isinstance(files, Sequence) else None
    with open_record(out, asdict(clip)) as record:
        earlier = Earlier(record.lines, src, names)
        with ShardWriter(out, shard_bytes, first=len(record.shards), finished=record.finish) as writer:
            position = 0
            for done, (file, line, found) in enumerate(_examined(files, earlier, clip, workers), start=1):
                progress(done, total)
                if isinstance(file, Passed):
                    passed[file.what] += 1
                    continue
                position += 1
                if isinstance(file, Rejected):
                    rejected.append(file)
                    continue
                if found is None or (line is not None and line.shard):
                    assert line is not None
                    if line.shard is None:
                        rejected.append(Rejected(file.name, line.reason, line.detail))
                    else:
                        earlier.compare(file, line, found)
                    continue
                if earlier.packed_by_another_name(file, found):
                    continue

                # The number makes keys unique, and is the file's position unless that was given away by an earlier
                # call; the stem, reduced to harmless characters, lets a person find the file.
                number = earlier.number(position - 1)
                shard = None
                if found.info is None:
                    rejected.append(Rejected(file.name, found.reason, found.detail))
                else:
                    key = f"{number:09d}-{re.sub('[^A-Za-z0-9_-]+', '_', file.stem)[:60]}"
                    writer.add(key, found.data, found.info, found.caption, {"original": file.name})
                    shard = writer.name
                    counts[found.info.kind] += 1
                    counts["long"] += limit.count([found.caption])
                    converted += [file.name] if found.converted else []
                record.add(earlier.line(file, found, number, shard))
        record.finish()

    write_rejected(out / "rejected.jsonl", rejected)
    changed = earlier.changed()
    write_rejected(out / "changed.jsonl", changed)
    if not writer.shards and not earlier.kept and not changed:
        raise DataError(_nothing_to_pack(src, rejected))
    return PackReport(
        counts["video"],
        counts["image"],
        tuple(converted),
        tuple(rejected),
        tuple(writer.shards),
        earlier.kept,
        tuple(changed),
        counts["long"],
        passed,
    )


def _examined(
    files: Iterable[Found], earlier: Earlier, clip: Clip, workers: int
) -> Iterator[tuple[Found, Line | None, Examined | None]]:
    """Yield all entries in order, each with what an earlier call has recorded of it, and with its examination.

    There is no examination of what needs none: of what is no captioned file, or has not changed since it was recorded.
    """
    films, idle, waiting = Films(), SimpleQueue[Sandbox](), deque[tuple[Found, Line | None, Future | None]]()

    def run(file: CaptionedFile, line: Line | None) -> Examined:
        """Examine a file in a sandbox that nobody else uses."""
        sandbox = idle.get()
        try:
            return examine(file, clip, films, sandbox, unless=line.sha256 if line and line.shard else "")
        finally:
            idle.put(sandbox)

    def result(file: Found, line: Line | None, future: Future | None) -> tuple[Found, Line | None, Examined | None]:
        return file, line, None if future is None else future.result()

    with ExitStack() as stack:
        for _ in range(workers):
            sandbox = Sandbox()
            idle.put(sandbox)
            stack.callback(sandbox.close)
        pool = ThreadPoolExecutor(workers)
        # Whatever ends the loop, no further file is begun.
        stack.callback(pool.shutdown, cancel_futures=True)
        for file in files:
            line, future = None, None
            if isinstance(file, CaptionedFile):
                line = earlier.line_of(file)
                if line is None or not earlier.is_same(file, line):
                    future = pool.submit(run, file, line)
            waiting.append((file, line, future))
            if len(waiting) > 2 * workers:
                yield result(*waiting.popleft())
        while waiting:
            yield result(*waiting.popleft())


def _nothing_to_pack(src: str | Path, rejected: list[Rejected]) -> str:
    """Return the message for a source without a usable file."""
    if not rejected:
        return f"nothing to pack: {src} is empty; wanted videos and images with captions, a table, or shards"
    first = f"{rejected[0].name}: {rejected[0].reason}. {rejected[0].detail}"
    return f"nothing to pack: no entry can train, {len(rejected)} rejected; first: {first}"
