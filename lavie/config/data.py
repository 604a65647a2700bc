"""The data section of the configuration: which samples a run takes, and what a batch row is made of."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from .base import Strict


def _as_knots(weight: Any) -> Any:
    if isinstance(weight, (list, tuple)) and weight:
        return weight
    if isinstance(weight, (int, float)) and not isinstance(weight, bool):
        return [[0, weight]]
    raise ValueError("wanted a number, or knots [[step, weight], ...]")


def _ascending(knots: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    if any(a[0] >= b[0] for a, b in zip(knots, knots[1:], strict=False)):
        raise ValueError(f"the steps of its knots are {[step for step, _ in knots]}: wanted ascending ones")
    return knots


Knot = tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0)]]
Weight = Annotated[tuple[Knot, ...], BeforeValidator(_as_knots), AfterValidator(_ascending)]
"""Knots (step, weight): linear between them, constant before the first and after the last. A number is one knot."""


def _known(model: type[Strict], values: Mapping[str, Any], what: str) -> None:
    """Raise ValueError at an unknown key of something in a list, where the reader finds no nearest key to name."""
    if unknown := [key for key in values if key not in model.model_fields]:
        raise ValueError(f"unknown key {unknown[0]} of {what}; valid keys: {', '.join(model.model_fields)}")


class DatasetConfig(Strict):
    """One dataset of a mixture. A position of the run takes it with its weight over the sum of all weights."""

    path: tuple[str, ...] = Field(min_length=1)
    """Folders of shards, or single .tar files."""
    name: str = Field("", pattern=r"^[\w.+-]*$")
    """Seeds its order, so that renaming reshuffles it; default: the last part of the first path, without .tar."""
    weight: Weight = ((0, 1.0),)
    """Of its videos: a number, or [[step, weight], ...], linear between these steps and constant outside."""
    image_weight: Weight | None = None
    """Of its images; default: `weight`."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        _known(cls, values, "a dataset")
        values = dict(values)
        if isinstance(values.get("path"), str):
            values["path"] = (values["path"],)
        if not values.get("name") and values.get("path"):
            last = str(values["path"][0]).rstrip("/").rpartition("/")[2].removesuffix(".tar")
            values["name"] = re.sub(r"[^\w.+-]", "-", last)
        return values


DatasetOrPath = Annotated[
    Annotated[str, Tag("path")] | Annotated[DatasetConfig, Tag("dataset")],
    Discriminator(lambda value: "dataset" if isinstance(value, (Mapping, DatasetConfig)) else "path"),
]


class BucketConfig(Strict):
    """One size of the clips of a run."""

    num_frames: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    weight: Weight | None = None
    """Its share of the steps, over the sum of all: a number, or [[step, weight], ...] as for datasets. Default: what
    lets every dataset keep its weight and come to each of its videos equally often."""

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            _known(cls, values, "a bucket")
        return values

    @property
    def name(self) -> str:
        """As "16x320x512": frames, height, width."""
        return f"{self.num_frames}x{self.height}x{self.width}"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


class DataConfig(Strict):
    """What a batch row is made of."""

    train: tuple[DatasetOrPath, ...]
    """Folders of shards, or single .tar files, as one pool; or datasets {path, weight}, mixed by their weights."""
    validation: tuple[str, ...] = ()
    remote: bool = False
    """Whether those may be URLs too: http(s)://, s3://, gs://, az://, hf://. Without credentials: they are taken from
    where the store's library looks for them."""
    num_frames: int = Field(16, ge=1)
    num_images: int = Field(4, ge=0)
    """Images joined to each clip on the frame axis, each with its own caption."""
    height: int = Field(320, ge=1)
    width: int = Field(512, ge=1)
    buckets: tuple[BucketConfig, ...] = ()
    """Sizes {num_frames, height, width} to train on, in place of the one above, which is left for validation. All rows
    of a step have the same; each video belongs to the one that suits it best (lavie/data/order/buckets.py)."""
    drop_short: bool = False
    """Whether videos too short for a clip (of every bucket) are left out and counted; else they are an error."""
    fps: float | None = Field(None, gt=0)
    """Frames per second of the clip, taken by timestamps; or give frame_stride."""
    frame_stride: int | None = Field(None, ge=1)
    """Every n-th frame of the source; or give fps."""
    crop: Literal["cover", "patch"] = "cover"
    """cover: scale each frame to cover height x width, then cut; patch: cut it at the source's own resolution."""
    min_size: int = Field(0, ge=0)
    """Sources whose shorter side has fewer pixels are left out."""
    moving_images: float = Field(0.0, ge=0, le=1)
    """Share of batch rows that show, in place of a clip, an image under a hand-held camera (paper, section 5.2)."""
    camera_speed: float = Field(4.0, gt=0)
    """moving_images only: how far that camera drifts between frames, in pixels (root mean square)."""
    num_workers: int = Field(2, ge=0)
    """Decoding processes per rank; 0 decodes in the trainer itself, where nothing guards against a stuck decoder."""
    timeout: float = Field(120, gt=0)
    """Seconds that a decoding process may be silent over one sample before it is killed and the sample read again. Of a
    remote sample, half of it may go to reading, in three attempts."""
    verify: Literal["always", "sampled", "never"] = "always"
    """Whether the SHA-256 of a sample's bytes is compared with the index at each read, at one in 16, or not at all."""
    cuts: int | None = Field(None, ge=1)
    """Fixed cuts (clip start and crop) of each sample, of which a visit takes one; null: every visit draws its own.
    They depend on the sample alone, so that runs of any seed share them. Not for validation and moving images."""
    cache: str | None = None
    """A folder that `lavie data cache` made: latents and text features come from it, not from encoders."""

    decoder: Literal["auto", "pyav", "dali"] = "auto"
    """What decodes the clips of training: pyav in the decoding processes, or dali in the trainer (`lavie[dali]`), which
    serves most codecs on a GPU, VP8 and VP9 without one. auto: dali on a GPU where it serves; the log says why."""

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = dict(values)
            for key in {"train", "validation"} & values.keys():
                value = values[key]
                values[key] = (value,) if isinstance(value, (str, Mapping)) else () if value is None else value
        return values

    @model_validator(mode="after")
    def _datasets(self) -> "DataConfig":
        if len({type(entry) for entry in self.train}) > 1:
            raise ValueError("train names datasets and bare paths: give every path a weight, as {path: ..., weight: 1}")
        names = sorted(entry.name for entry in self.train if isinstance(entry, DatasetConfig))
        if twice := {a for a, b in zip(names, names[1:], strict=False) if a == b}:
            raise ValueError(f"train has several datasets of the name {min(twice)}: give each its own name")
        return self

    @model_validator(mode="after")
    def _check_buckets(self) -> "DataConfig":
        names = sorted(bucket.name for bucket in self.buckets)
        if twice := [a for a, b in zip(names, names[1:], strict=False) if a == b]:
            raise ValueError(f"buckets has {twice[0]} twice: leave one out")
        weighed = [bucket.weight is not None for bucket in self.buckets]
        if any(weighed) and not all(weighed):
            raise ValueError(f"buckets: {sum(weighed)} of {len(weighed)} have a weight: give one to all, or to none")
        if weighed and not any(weighed) and self.moving_images == 1:
            raise ValueError("buckets have no weight, and at moving_images 1 there are no videos to weigh them by")
        for bucket in self.buckets:
            if bucket.weight is not None and not any(weight for _, weight in bucket.weight):
                raise ValueError(f"bucket {bucket.name} has the weight 0 throughout: leave it out of buckets")
        return self

    @model_validator(mode="after")
    def _one_rate(self) -> "DataConfig":
        if (self.fps is None) == (self.frame_stride is None):
            raise ValueError(
                f"give one of fps (got {self.fps}) and frame_stride (got {self.frame_stride}), and null for the other"
            )
        if self.moving_images and self.crop == "cover":
            raise ValueError(
                f"moving_images is {self.moving_images:g}: crop cover leaves the camera no room, set crop to patch"
            )
        return self

    @model_validator(mode="after")
    def _cacheable(self) -> "DataConfig":
        if self.cache is not None:
            if self.cuts is None:
                raise ValueError(f"cache is {self.cache}, cuts is null: a cache holds fixed cuts, set cuts, as to 1")
            if self.moving_images:
                raise ValueError(
                    f"cache is {self.cache}, moving_images {self.moving_images:g}: a camera's way is drawn at each "
                    "visit and cannot be cached, set one of them to null or 0"
                )
        return self

    @property
    def size(self) -> BucketConfig:
        """The one size of clips; where there are buckets, that of validation."""
        return BucketConfig(num_frames=self.num_frames, height=self.height, width=self.width)

    @property
    def sizes(self) -> tuple[BucketConfig, ...]:
        """What clips are trained on: the buckets, or the one size."""
        return self.buckets or (self.size,)

    def of_size(self, size: BucketConfig) -> "DataConfig":
        """The same for the clips of one size."""
        only = {"num_frames": size.num_frames, "height": size.height, "width": size.width, "buckets": ()}
        return self.model_copy(update=only)

    @property
    def held_out(self) -> "DataConfig":
        """The same for `validation`: clips of the one size, no moving images."""
        return self.of_size(self.size).model_copy(update={"moving_images": 0.0})


Filter = Literal["box", "bilinear", "bicubic", "lanczos"]


class DegradationConfig(Strict):
    """How the low resolution of a super-resolution pair is made from the high one. Every value is drawn per clip."""

    scale: int = Field(4, ge=2)
    """Pixels of the high resolution per pixel of the low one, along both axes."""
    filters: tuple[Filter, ...] = Field(("box", "bilinear", "bicubic", "lanczos"), min_length=1)
    """One of these shrinks the frames."""
    blur: tuple[float, float] = (0.0, 1.5)
    """Range of the standard deviation, in pixels of the high resolution, of a Gaussian blur before shrinking."""
    noise: tuple[float, float] = (0.0, 0.02)
    """Range of the standard deviation, 1 being white, of Gaussian noise per frame after shrinking."""
    jpeg_quality: tuple[int, int] = (70, 100)
    """Range of the quality of JPEG compression at the end; 100 leaves it out."""

    @model_validator(mode="after")
    def _check(self) -> "DegradationConfig":
        for key, highest in (("blur", 100.0), ("noise", 1.0), ("jpeg_quality", 100)):
            low, high = getattr(self, key)
            if not (1 if key == "jpeg_quality" else 0) <= low <= high <= highest:
                raise ValueError(f"{key} is [{low}, {high}]: wanted a range, lowest first, up to {highest}")
        return self
