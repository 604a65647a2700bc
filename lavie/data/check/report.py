"""The result of a check: the problems that can be found, and the report that lists those that were."""

import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ...caption_limit import CaptionLimit, clip_words
from ..media.decode import REMARKS
from ..shards.index_file import Rejected, Sample

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
"""Problems that keep samples from training, or that feed other bytes than the index promises."""
NOTES = (
    "no index",
    "duplicate media",
    "variable frame rate",
    "several video streams",
    "interlaced",
    "short caption",
    "long caption",
    "left out by the run",
    "enlarged",
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
"""Problems that are worth a look, but stop nothing."""
PROBLEMS = UNUSABLE + NOTES
"""All problems, in the order in which they are shown."""

Outcome = Literal["agree", "disagree", "not compared"]
"""The result of decoding one video with a second decoder."""


@dataclass
class CheckReport:
    """All that `check` found in a set of shards."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    """One mapping per shard with the keys shard (its path), bytes, videos and images (counts of usable samples)."""
    findings: list[Rejected] = field(default_factory=list)
    """The faults in the order in which they were met; each `reason` is one of PROBLEMS."""
    lost: int = 0
    """Number of samples in shards that cannot be read, counted by their indices."""
    system_files: int = 0
    """Number of members that an operating system has left in the shards."""
    durations: list[float] = field(default_factory=list)
    """Seconds, one value per video."""
    words: list[int] = field(default_factory=list)
    """Number of words, one value per caption."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of samples by (width, height) in pixels."""
    limit: CaptionLimit = field(default_factory=clip_words)
    """The length beyond which a caption is long."""
    interpreted: Counter[str] = field(default_factory=Counter)
    """Number of samples by what about them had to be interpreted, in the words of `decode.REMARKS`."""
    duplicate_captions: int = 0
    """Number of captions that an earlier sample has too."""
    categories: Counter[str] = field(default_factory=Counter)
    """Number of samples by category, from the json members; a sample may have several categories."""
    aesthetic: list[float] = field(default_factory=list)
    """Aesthetic scores, one for each sample whose json member has one."""
    decoded: list[tuple[Sample, np.ndarray]] = field(default_factory=list)
    """The samples that were looked at, each with a few small frames, uint8 (F, H, W, 3)."""
    compared: Counter[Outcome] = field(default_factory=Counter)
    """Number of videos looked at, by the outcome of the second decoder."""
    not_compared: Counter[str] = field(default_factory=Counter)
    """Number of videos that the second decoder was not given, by reason."""

    @property
    def counts(self) -> Counter[str]:
        """The number of findings of each problem."""
        return Counter(f.reason for f in self.findings)

    @property
    def usable(self) -> bool:
        """Whether no finding keeps a sample from training."""
        return not any(f.reason in UNUSABLE for f in self.findings)

    def note(self, name: str, problem: str, detail: str = "") -> None:
        """Add a finding about the shard or member `name`; `problem` is one of PROBLEMS."""
        self.findings.append(Rejected(name, problem, detail))

    def as_json(self) -> dict[str, Any]:
        """Return the report for `check.json`: sums and findings, without pictures and without one value per sample."""
        videos = sum(shard["videos"] for shard in self.shards)
        images = sum(shard["images"] for shard in self.shards)
        captions = len(self.words)
        counts = self.counts

        # Without videos or captions, undefined medians and shares are given as zeros, which JSON can hold.
        return {
            "usable": self.usable,
            "videos": videos,
            "images": images,
            "lost": self.lost,
            "system_files": self.system_files,
            "decoded": len(self.decoded),
            "decoders": {
                "agree": self.compared["agree"],
                "disagree": self.compared["disagree"],
                "not compared": dict(self.not_compared.most_common()),
            },
            "problems": {problem: counts[problem] for problem in PROBLEMS if counts[problem]},
            "interpreted": {remark: self.interpreted[remark] for remark in REMARKS if self.interpreted[remark]},
            "captions": {
                "median_words": statistics.median(self.words) if self.words else 0,
                "long": f"{counts['long caption']} have {self.limit.rule}",
                "duplicates": self.duplicate_captions,
                "other_script_share": counts["other script"] / captions if captions else 0.0,
                "not_english_share": counts["not English"] / captions if captions else 0.0,
            },
            "seconds": {"total": sum(self.durations), "median": statistics.median(self.durations or [0.0])},
            "sizes": {f"{width}x{height}": count for (width, height), count in self.sizes.most_common()},
            "categories": dict(self.categories.most_common()),
            "aesthetic_mean": statistics.fmean(self.aesthetic) if self.aesthetic else None,
            "shards": self.shards,
            "findings": [asdict(finding) for finding in self.findings],
        }


def member_name(sample: Sample) -> str:
    """Return the name by which findings call a sample: `shard.tar:member`."""
    return f"{sample.shard}:{sample.member}"
