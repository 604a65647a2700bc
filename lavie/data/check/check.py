"""The check of a dataset: every member is read and hashed, and some samples are decoded and looked at."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...caption_limit import CaptionLimit, clip_words
from ...config.data import DataConfig
from ...errors import DataError
from ...seeds import numpy_generator
from ..media.clips import feasible_starts
from ..media.decode import frame_times
from ..prepare.sandbox import run_sandboxed
from ..shards.index_file import Sample
from ..shards.member import read_member
from .language import is_english, is_latin
from .look import Compare, look
from .members import read_shard
from .report import NOTES, CheckReport, member_name

WORDS = 3
"""Captions of fewer words are noted as short: the paper leaves them out (section 5.1)."""
BALANCE = 2.0
"""A shard with more than this many times the median number of samples is noted: the rank that reads it is slower."""


def find_shards(paths: Iterable[Path]) -> list[Path]:
    """Return the given tars, and those in the given folders, in order.

    Raises:
        DataError: a path does not exist, or is a folder without a tar.
    """
    tars: list[Path] = []
    for path in paths:
        if path.is_file():
            tars.append(path)
            continue
        if not path.is_dir():
            raise DataError(f"SHARDS {path}: no such file or folder")
        tars_in_folder = sorted(path.glob("*.tar"))
        if not tars_in_folder:
            raise DataError(f"SHARDS {path}: no .tar in this folder")
        tars += tars_in_folder
    return tars


def check(
    tars: Sequence[Path],
    *,
    decode: int = 0,
    num_frames: int = 16,
    fps: float | None = None,
    frame_stride: int | None = None,
    run: DataConfig | None = None,
    limit: CaptionLimit | None = None,
    compare: Compare | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CheckReport:
    """Read every member of some shards, and look at a few of their samples.

    Media is decoded in a child process. The facts of every sample are held in memory, so check millions of them in
    parts.

    Args:
        tars: the shards.
        decode: how many samples are decoded and looked at, drawn at random and the same ones every time.
        num_frames: frames of a training clip. A video is too short if it holds no clip of so many frames.
        fps: frames per second of a training clip.
        frame_stride: alternatively, a clip takes every so many-th frame. Default if `fps` is not given either: 1.
        run: the data section of a run, by whose sizes and rates samples are judged in place of the three above.
        limit: how much of a caption is read; default: CLIP's 77 tokens, counted as words.
        compare: a second decoder that is asked about the videos looked at.
        progress: called after each shard with the bytes read so far and the bytes of all shards.
    """
    report, earlier = CheckReport(limit=limit or clip_words()), _EarlierSamples()
    if run is not None:
        num_frames = min(size.num_frames for size in (*run.sizes, run.size))
        fps, frame_stride = run.fps, run.frame_stride
    if fps is None and frame_stride is None:
        frame_stride = 1

    # First half: every member is read.
    total = sum(tar.stat().st_size for tar in tars)
    done = 0
    samples: list[Sample] = []
    for tar in tars:
        for sample in read_shard(tar, report):
            _judge_facts(sample, report, earlier)
            if sample.kind == "video" and not _holds_clip(sample, num_frames, fps, frame_stride):
                detail = f"{sample.frames} frames, {sample.duration:.2f} s"
                left_out = run is not None and run.drop_short
                report.note(member_name(sample), "left out by the run" if left_out else "too short", detail)
            if run is not None:
                _judge_size(sample, run, report)
            samples.append(sample)
        done += tar.stat().st_size
        progress(done, total)
    _judge_balance(report)

    # Second half: some samples are looked at, in the order in which they lie in the shards.
    chosen = numpy_generator(0, "data check").permutation(len(samples))[:decode]
    for number in sorted(chosen):
        look(samples[number], report, compare)
    return report


@dataclass
class _EarlierSamples:
    """What the samples read so far had, to find repetitions."""

    media: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the media -> name of the first member that has these bytes."""
    captions: set[str] = field(default_factory=set)
    """SHA-256 of each caption."""


def _judge_facts(sample: Sample, report: CheckReport, earlier: _EarlierSamples) -> None:
    """Count a sample, and note what its caption, its hash and its times show without decoding."""
    name = member_name(sample)
    words = len(sample.caption.split())
    report.words.append(words)
    report.sizes[sample.width, sample.height] += 1
    if sample.kind == "video":
        report.durations.append(sample.duration)

    first = earlier.media.setdefault(sample.sha256, name)
    if first != name:
        report.note(name, "duplicate media", f"the bytes of {first}")
    if sample.caption_sha256 in earlier.captions:
        report.duplicate_captions += 1
    earlier.captions.add(sample.caption_sha256)

    if sample.vfr:
        report.note(name, "variable frame rate", f"{sample.fps:.3f} frames per second on average")
    for text in sample.notes:
        remark, _, detail = text.partition(": ")
        report.interpreted[remark] += 1
        if remark in NOTES:
            report.note(name, remark, detail)
    if words < WORDS:
        report.note(name, "short caption", sample.caption)
    [length] = report.limit.lengths([sample.caption])
    if length > report.limit.most:
        report.note(name, "long caption", f"{length} {report.limit.unit}: {report.limit.rule}")
    if not is_latin(sample.caption):
        report.note(name, "other script", sample.caption[:80])
    elif not is_english(sample.caption):
        report.note(name, "not English", sample.caption[:80])


def _judge_size(sample: Sample, run: DataConfig, report: CheckReport) -> None:
    """Note a sample that is too small for a run, or smaller than all frames that it could fill there."""
    smallest = run.min_size if sample.kind == "video" else run.smallest_image
    size = f"{sample.width} x {sample.height}"
    if min(sample.width, sample.height) < smallest:
        report.note(member_name(sample), "left out by the run", f"{size}, its shorter side is below {smallest}")
    elif all(sample.width < frame.width or sample.height < frame.height for frame in run.sizes):
        report.note(member_name(sample), "enlarged", f"{size}, smaller than every size of the run's frames")


def _holds_clip(sample: Sample, num_frames: int, fps: float | None, frame_stride: int | None) -> bool:
    """Whether a video has at least one clip of `num_frames` frames; only a variable rate needs the file's own times."""
    if sample.vfr or not sample.fps:
        times = run_sandboxed(frame_times, read_member(sample), sample.frames)
    else:
        times = np.arange(sample.frames) / sample.fps
    return len(feasible_starts(times, num_frames, fps=fps, frame_stride=frame_stride)) > 0


def _judge_balance(report: CheckReport) -> None:
    """Note the shards that are much larger than the median shard."""
    counts = [shard["videos"] + shard["images"] for shard in report.shards]
    median = statistics.median(counts) if counts else 0
    for shard, count in zip(report.shards, counts, strict=True):
        if count > BALANCE * median > 0:
            report.note(shard["shard"], "unbalanced shards", f"{count} samples, the median shard has {median:g}")
