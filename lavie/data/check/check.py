"""What is wrong with a dataset: every member read and hashed, some clips decoded and looked at.

Each finding has the name of what it concerns and one of PROBLEMS. Those of UNUSABLE keep samples from training, or feed
other bytes than the index promises; the others are worth a look.
"""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...seeds import numpy_generator
from ..media.clips import feasible_starts
from ..media.decode import MediaInfo, frame_times
from ..prepare.sandbox import run_sandboxed
from ..prepare.scan import index_shard
from ..prepare.tar import read_members
from ..shards.index_file import Rejected, Sample, fingerprint, index_path, read_header, read_index
from ..shards.member import read_member
from .compare_decoders import Outcome
from .language import is_english, is_latin
from .thumbnails import thumbnails

UNUSABLE = (
    "truncated shard",
    "damaged shard",
    "index does not fit",
    "missing",
    "corrupted",
    "zero-byte",
    "undecodable",
    "name and content differ",
    "no caption",
    "unusable caption",
    "several media members",
    "duplicate key",
    "too short",
)
NOTES = (
    "no index",
    "duplicate media",
    "variable frame rate",
    "short caption",
    "other script",
    "not English",
    "black",
    "frozen",
    "decoders disagree",
    "unbalanced shards",
    "caption without media",
    "unknown extension",
    "unsafe name",
    "link, device or sparse file",
    "other",
)
PROBLEMS = UNUSABLE + NOTES

BLACK = 8.0
"""Mean luma (BT.601, 0 .. 255) below which all frames of a clip are black."""
FROZEN = 0.3
"""Mean absolute difference of frames, in levels of 255, below which nothing moves; a camera's noise alone is above."""
WORDS = 3
"""The paper leaves out captions of fewer words (section 5.1)."""
BALANCE = 2.0
"""A shard of more than this many times the median number of samples is large for the rank that reads it."""
LOOKS = 8
"""Frames looked at per clip."""
MAX_SIDECAR = 1 << 20

Compare = Callable[[Sample, bytes, Sequence[int], int, int], tuple[Outcome, str]]
"""From a video, its bytes, ascending frame indices, height and width to what `compare.Comparison` says of it."""


@dataclass
class CheckReport:
    """What `check` found."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    """path, bytes, videos, images of each."""
    findings: list[Rejected] = field(default_factory=list)
    """reason is one of PROBLEMS."""
    lost: int = 0
    """Samples of shards that cannot be read, as their indices count them."""
    durations: list[float] = field(default_factory=list)
    """Seconds of each video."""
    words: list[int] = field(default_factory=list)
    """Of each caption."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Samples by (width, height)."""
    duplicate_captions: int = 0
    """Captions that an earlier sample has too."""
    categories: Counter[str] = field(default_factory=Counter)
    aesthetic: list[float] = field(default_factory=list)
    """Scores, of the samples whose json has one."""
    decoded: list[tuple[Sample, np.ndarray]] = field(default_factory=list)
    """Clips that were looked at: frames uint8 (F, H, W, 3), small."""
    compared: Counter[Outcome] = field(default_factory=Counter)
    """Videos looked at, by whether another decoder shows the same."""
    not_compared: Counter[str] = field(default_factory=Counter)
    """Those that it was not asked for, by reason."""

    @property
    def counts(self) -> Counter[str]:
        """Findings by problem."""
        return Counter(f.reason for f in self.findings)

    @property
    def usable(self) -> bool:
        """Whether nothing keeps a sample from training."""
        return not any(f.reason in UNUSABLE for f in self.findings)

    def as_json(self) -> dict[str, Any]:
        """All but pictures and single values."""
        videos, images = (sum(s[kind] for s in self.shards) for kind in ("videos", "images"))
        captions = len(self.words)
        counts = self.counts
        return {
            "usable": self.usable,
            "videos": videos,
            "images": images,
            "lost": self.lost,
            "decoded": len(self.decoded),
            "decoders": {
                "agree": self.compared["agree"],
                "disagree": self.compared["disagree"],
                "not compared": dict(self.not_compared.most_common()),
            },
            "problems": {p: counts[p] for p in PROBLEMS if counts[p]},
            "captions": {
                "median_words": statistics.median(self.words) if self.words else 0,
                "duplicates": self.duplicate_captions,
                "other_script_share": counts["other script"] / captions if captions else 0.0,
                "not_english_share": counts["not English"] / captions if captions else 0.0,
            },
            "seconds": {"total": sum(self.durations), "median": statistics.median(self.durations or [0.0])},
            "sizes": {f"{w}x{h}": n for (w, h), n in self.sizes.most_common()},
            "categories": dict(self.categories.most_common()),
            "aesthetic_mean": statistics.fmean(self.aesthetic) if self.aesthetic else None,
            "shards": self.shards,
            "findings": [asdict(f) for f in self.findings],
        }


def check(
    tars: Sequence[Path],
    *,
    decode: int = 0,
    num_frames: int = 16,
    fps: float | None = None,
    frame_stride: int | None = None,
    compare: Compare | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CheckReport:
    """Read every member of the shards `tars`, and look at `decode` of their samples.

    A video is too short if it holds no clip of `num_frames` frames at `fps`, or at every `frame_stride`-th frame
    (default: 1). `compare` is asked about the videos looked at. `progress` is given bytes.
    Media is decoded in a child process. What is known of every sample is held in memory, so check millions in parts.
    """
    report, seen = CheckReport(), _Seen()
    if fps is None and frame_stride is None:
        frame_stride = 1
    total = sum(tar.stat().st_size for tar in tars)
    done = 0
    samples: list[Sample] = []
    for tar in tars:
        for sample in _shard(tar, report):
            _describe(sample, report, seen)
            if sample.kind == "video" and not _holds_clip(sample, num_frames, fps, frame_stride):
                detail = f"{sample.frames} frames, {sample.duration:.2f} s"
                report.findings.append(Rejected(_name(sample), "too short", detail))
            samples.append(sample)
        done += tar.stat().st_size
        progress(done, total)
    _balance(report)
    order = numpy_generator(0, "data check").permutation(len(samples))[:decode]
    for sample in (samples[i] for i in sorted(order)):
        _look(sample, report, compare)
    return report


class _Seen:
    """First owner of each media hash, and the captions met."""

    def __init__(self) -> None:
        self.media: dict[str, str] = {}
        self.captions: set[str] = set()


def _shard(tar: Path, report: CheckReport) -> Iterator[Sample]:
    """The samples of a shard that are as its index says, or that decode where it has none."""

    def note(name: str, reason: str, detail: str = "") -> None:
        report.findings.append(Rejected(f"{tar}:{name}" if name else str(tar), reason, detail))

    promised: dict[str, dict[str, Any]] = {}
    path = index_path(tar)
    if not path.is_file():
        note("", "no index", "`lavie data index` makes it")
    else:
        try:
            header = read_header(path)
            promised = {line["key"]: line for line in read_index(path, header)}
            if (header.tar_bytes, header.ends) != (tar.stat().st_size, fingerprint(tar)):
                note("", "index does not fit", f"{tar.stat().st_size} bytes, its index was made for {header.tar_bytes}")
        except DataError as error:
            note("", "index does not fit", str(error))
    entry: dict[str, Any] = {"shard": str(tar), "bytes": tar.stat().st_size, "videos": 0, "images": 0}
    report.shards.append(entry)
    try:
        found, rejected = index_shard(tar, {key: _info(line) for key, line in promised.items()})
        _sidecars(tar, report)
    except DataError as error:
        report.lost += len(promised)
        note("", "truncated shard" if "cut short" in str(error) else "damaged shard", str(error))
        return
    for item in rejected:
        reason = "zero-byte" if item.detail == "the file is empty" else item.reason
        note(item.name, reason if reason in PROBLEMS else "other", item.detail or item.reason)
    named = {item.name.rpartition(".")[0] for item in rejected}
    for key in promised.keys() - {s.key for s in found} - named:
        note(key, "missing", "the index has it, the tar has not")
    for sample in found:
        line = promised.get(sample.key)
        if line and line["sha256"] != sample.sha256:
            note(sample.member, "corrupted" if sample.size else "zero-byte", "the SHA-256 differs from the index")
        else:
            entry["videos" if sample.kind == "video" else "images"] += 1
            yield sample


def _info(line: dict[str, Any]) -> MediaInfo:
    values = {f.name: line[f.name] for f in fields(MediaInfo) if f.name != "format"}
    return MediaInfo(format=line["member"].rpartition(".")[2], **values)


def _sidecars(tar: Path, report: CheckReport) -> None:
    """Categories and scores from the json members, as video2dataset and img2dataset name them."""
    with open(tar, "rb") as file:
        for member in read_members(tar):
            if member.kind != "file" or not member.name.endswith(".json") or member.size > MAX_SIDECAR:
                continue
            file.seek(member.offset)
            try:
                notes = json.loads(file.read(member.size))
            except (ValueError, RecursionError):
                continue
            if not isinstance(notes, dict):
                continue
            named = notes.get("categories") or notes.get("category")
            report.categories.update(
                c[:40] for c in (named if isinstance(named, list) else [named]) if isinstance(c, str)
            )
            scores = (notes.get(key) for key in ("aesthetic_score", "aesthetic", "AESTHETIC_SCORE"))
            score = next((s for s in scores if isinstance(s, int | float) and not isinstance(s, bool)), None)
            if score is not None and np.isfinite(score):
                report.aesthetic.append(float(score))


def _describe(sample: Sample, report: CheckReport, seen: _Seen) -> None:
    name = _name(sample)

    def note(reason: str, detail: str) -> None:
        report.findings.append(Rejected(name, reason, detail))

    words = len(sample.caption.split())
    report.words.append(words)
    report.sizes[sample.width, sample.height] += 1
    if sample.kind == "video":
        report.durations.append(sample.duration)
    if (first := seen.media.setdefault(sample.sha256, name)) != name:
        note("duplicate media", f"the bytes of {first}")
    report.duplicate_captions += sample.caption_sha256 in seen.captions
    seen.captions.add(sample.caption_sha256)
    if sample.vfr:
        note("variable frame rate", f"{sample.fps:.3f} frames per second on average")
    if words < WORDS:
        note("short caption", sample.caption)
    if not is_latin(sample.caption):
        note("other script", sample.caption[:80])
    elif not is_english(sample.caption):
        note("not English", sample.caption[:80])


def _holds_clip(sample: Sample, num_frames: int, fps: float | None, frame_stride: int | None) -> bool:
    if sample.vfr or not sample.fps:
        times = run_sandboxed(frame_times, read_member(sample), sample.frames)
    else:
        times = np.arange(sample.frames) / sample.fps
    return len(feasible_starts(times, num_frames, fps=fps, frame_stride=frame_stride)) > 0


def _balance(report: CheckReport) -> None:
    counts = [s["videos"] + s["images"] for s in report.shards]
    middle = statistics.median(counts) if counts else 0
    for shard, count in zip(report.shards, counts, strict=True):
        if count > BALANCE * middle > 0:
            detail = f"{count} samples, the median shard has {middle:g}"
            report.findings.append(Rejected(shard["shard"], "unbalanced shards", detail))


def _look(sample: Sample, report: CheckReport, compare: Compare | None) -> None:
    """Decode a few frames and judge them."""

    def note(reason: str, detail: str) -> None:
        report.findings.append(Rejected(_name(sample), reason, detail))

    data = read_member(sample)
    indices = np.unique(np.linspace(0, sample.frames - 1, LOOKS).round().astype(int)).tolist()
    try:
        frames = run_sandboxed(thumbnails, data, indices if sample.kind == "video" else None)
    except DataError as error:
        note("undecodable", str(error))
        return
    report.decoded.append((sample, frames))
    luma = frames @ np.array([0.299, 0.587, 0.114])
    if luma.mean(axis=(1, 2)).max() < BLACK:
        note("black", f"mean luma {luma.mean():.1f} of 255")
    if sample.kind == "image":
        return
    steps = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    if sample.frames > 1 and steps.max() < FROZEN:
        note("frozen", f"frames differ by {steps.max():.2f} of 255 at most")
    if compare is not None:
        outcome, detail = compare(sample, data, indices, *frames.shape[1:3])
        report.compared[outcome] += 1
        if outcome == "disagree":
            note("decoders disagree", detail)
        elif outcome == "not compared":
            report.not_compared[detail] += 1


def _name(sample: Sample) -> str:
    return f"{sample.shard}:{sample.member}"
