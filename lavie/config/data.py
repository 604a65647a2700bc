"""The data section of the configuration: which samples a run takes, and what a batch row is made of."""

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from .base import OptionalPath, PathText, Strict, means_none

MAX_SIDE = 8192
"""The most pixels along one side of a frame: larger media are not decoded either."""


def _as_knots(weight: Any) -> Any:
    """Return the knots of a weight as a file gives it: a number stands for one knot at step 0."""
    if isinstance(weight, (list, tuple)) and weight:
        return weight
    if isinstance(weight, (int, float)) and not isinstance(weight, bool):
        return [[0, weight]]
    raise ValueError("wanted a number, or knots [[step, weight], ...]")


def _ascending(knots: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """Return the knots of a weight; ValueError if their steps do not ascend."""
    if any(a[0] >= b[0] for a, b in itertools.pairwise(knots)):
        raise ValueError(f"the steps of its knots are {[step for step, _ in knots]}: wanted ascending ones")
    return knots


Knot = tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0)]]
Weight = Annotated[tuple[Knot, ...], BeforeValidator(_as_knots), AfterValidator(_ascending)]
"""Knots (step, weight), step 0 or more and weight 0 or more: linear between them, constant before the first and after
the last. A number is one knot."""


def _known(model: type[Strict], values: Mapping[str, Any], what: str) -> None:
    """Raise ValueError at an unknown key of an entry of a list, where `load_config` finds no nearest key to name."""
    if unknown := [key for key in values if key not in model.model_fields]:
        raise ValueError(f"unknown key {unknown[0]} of {what}; valid keys: {', '.join(model.model_fields)}")


def _single(path: str, key: str) -> tuple[str]:
    """Return a single path as a list of one; ValueError if it looks like several, or like none."""
    if "," in path:
        several = ", ".join(part.strip() for part in path.split(","))
        raise ValueError(f"{key} is {path!r}, one path with a comma: for several write [{several}], else ['{path}']")
    if means_none(path):
        raise ValueError(f"{key} is {path!r}: [] stands for none, and ./{path} for a folder of that name")
    return (path,)


class DatasetConfig(Strict):
    """One dataset of a mixture. Its share of a run's samples is its weight over the sum of all weights."""

    path: tuple[PathText, ...] = Field(min_length=1)
    """Folders of shards, or single .tar files; a single path may stand without a list."""
    name: str = Field("", pattern=r"^[\w.+-]*$")
    """What the dataset's order is seeded by, so that renaming reshuffles it: letters, digits, and _ . + -. Default: the
    last part of the first path, without .tar."""
    weight: Weight = ((0, 1.0),)
    """Weight of the dataset's videos: a number, 0 or more, or [[step, weight], ...], linear between these steps and
    constant outside them. Default: the same for all datasets."""
    image_weight: Weight | None = None
    """Weight of the dataset's images, as `weight`. Default: `weight`."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        """Make a list of a single path, and a name of the first path where none is given."""
        if not isinstance(values, Mapping):
            return values
        _known(cls, values, "a dataset")
        values = dict(values)
        if isinstance(values.get("path"), str):
            values["path"] = _single(values["path"], "path")
        if not values.get("name") and values.get("path"):
            last = str(values["path"][0]).rstrip("/").rpartition("/")[2].removesuffix(".tar")
            values["name"] = re.sub(r"[^\w.+-]", "-", last)
        return values


DatasetOrPath = Annotated[
    Annotated[PathText, Tag("path")] | Annotated[DatasetConfig, Tag("dataset")],
    Discriminator(lambda value: "dataset" if isinstance(value, (Mapping, DatasetConfig)) else "path"),
]


class BucketConfig(Strict):
    """One size of the clips of a run."""

    num_frames: int = Field(ge=1)
    """Frames of a clip."""
    height: int = Field(ge=1, le=MAX_SIDE)
    """Pixels; a multiple of the autoencoder's pixels per latent."""
    width: int = Field(ge=1, le=MAX_SIDE)
    """Pixels; a multiple of the autoencoder's pixels per latent."""
    weight: Weight | None = None
    """Weight of the bucket's share of the steps, over the sum of all buckets': a number, or [[step, weight], ...] as
    for datasets. Default: what lets every dataset keep its weight and come to each of its videos equally often."""

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, values: Any) -> Any:
        """Refuse a bucket with an unknown key, and name the key."""
        if isinstance(values, Mapping):
            _known(cls, values, "a bucket")
        return values

    @property
    def name(self) -> str:
        """Frames, height and width, as "16x320x512"."""
        return f"{self.num_frames}x{self.height}x{self.width}"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.height, self.width


class DataConfig(Strict):
    """Which samples a run takes, and what a batch row is made of."""

    train: tuple[DatasetOrPath, ...]
    """Folders of shards, or single .tar files, as one pool; or datasets {path, weight}, mixed by their weights. A
    single entry may stand without a list."""
    validation: tuple[PathText, ...] = ()
    """Folders of shards, or single .tar files, of held-out clips for the validation loss. Default: none, and no
    validation loss."""
    remote: bool = False
    """Whether the paths of train and validation may be URLs too: http(s)://, s3://, gs://, az://, hf://. Credentials do
    not belong here: the store's library looks for them where it always does. Default: no, so that a run touches the
    network only where that was asked for."""
    num_frames: int = Field(16, ge=1)
    """Frames of a clip. Default: the paper's, for the base stage."""
    num_images: int = Field(4, ge=0)
    """Images joined to each clip on the frame axis, each with its own caption; stage base only. Default: the
    paper's."""
    images_alone: bool = False
    """Whether a row is its num_images images without a clip; stage base only. They pass by the temporal layers, and
    num_frames is the length of the clips that validation reads and draws. Default: no; configs/lora.yaml sets it."""
    height: int = Field(320, ge=1, le=MAX_SIDE)
    """Pixels; a multiple of the autoencoder's pixels per latent. Default: the paper's, for the base stage."""
    width: int = Field(512, ge=1, le=MAX_SIDE)
    """Pixels; a multiple of the autoencoder's pixels per latent. Default: the paper's, for the base stage."""
    buckets: tuple[BucketConfig, ...] = ()
    """Sizes {num_frames, height, width} to train on; num_frames, height and width above then serve validation alone.
    All rows of a step have one size; each video belongs to the size that suits it best (lavie/data/order/buckets.py).
    Default: none, the one size above."""
    drop_short: bool = False
    """Whether videos too short for a clip (of every bucket) are left out and counted. Default: no, they are an error,
    so that nobody trains on less data than they think."""
    fps: float | None = Field(None, gt=0)
    """Frames per second of the clip, taken by timestamps. Exactly one of fps and frame_stride is given."""
    frame_stride: int | None = Field(None, ge=1)
    """Frames of the source from one frame of the clip to the next. Exactly one of fps and frame_stride is given."""
    crop: Literal["cover", "patch"] = "cover"
    """cover: scale each frame to cover height x width, then cut; patch: cut it at the source's own resolution. Default:
    cover, which keeps most of the picture; the paper trains super-resolution on patches."""
    resampler: Literal["pillow-1", "swscale-1"] = "pillow-1"
    """How frames of clips come to that size. pillow-1: converted to RGB at the source's size, then scaled by Pillow;
    swscale-1: converted and scaled in one pass of FFmpeg, which is less work and gives slightly other pixels; PyAV
    alone has it. The number is the version of a way's pixels. Default: pillow-1, whose pixels all caches and runs have
    that do not name another."""
    min_size: int = Field(0, ge=0)
    """Pixels of a source's shorter side below which it is left out. Default: 0, none is."""
    min_image_size: int = Field(0, ge=0)
    """As min_size, for images alone; the larger of the two counts for them. Default: 0, none is."""
    moving_images: float = Field(0.0, ge=0, le=1)
    """Share, 0 .. 1, of batch rows that show an image under a hand-held camera instead of a clip (paper, section 5.2);
    needs crop patch. Default: none, as only super-resolution is trained so."""
    camera_speed: float = Field(4.0, gt=0)
    """moving_images only: how far that camera drifts between frames, in pixels (root mean square). Default: our choice,
    the paper gives none."""
    num_workers: int | None = Field(None, ge=0)
    """Decoding processes per rank; 0 decodes in the trainer itself, where nothing guards against a stuck decoder.
    Default: null, the cores of the rank less 2, from 1 to 16; metrics.jsonl says how long steps wait for data."""
    exclude: tuple[str, ...] | PathText = ()
    """Samples of train that are left out: a list of their keys, as messages and dropped-rank*.jsonl name them, or a
    file with one key a line. A spare stands in for each wherever it comes, as for a sample that cannot be read.
    Default: none."""
    timeout: float = Field(120, gt=0)
    """Seconds that a decoding process may be silent over one sample before it is killed and the sample read again; of a
    remote sample, half of them may go to reading, in three attempts. Default: far more than any healthy sample
    takes."""
    verify: Literal["always", "sampled", "never"] = "always"
    """Whether the SHA-256 of a sample's bytes is compared with the index at each read, at one in 16, or not at all.
    Default: always, as hashing costs little beside decoding."""
    cuts: int | None = Field(None, ge=1)
    """Fixed cuts (clip start and crop) of each sample, of which a visit takes one. They depend on the sample alone, so
    that runs of any seed share them. Not for validation and moving images. Default: null, every visit draws its own,
    which shows the network more."""
    cache: OptionalPath = None
    """A folder that `lavie data cache` made: latents and text features come from it, not from encoders; needs cuts.
    Default: null, everything is encoded as it is read."""

    decoder: Literal["auto", "pyav", "dali"] = "auto"
    """What decodes the clips of training: pyav in the decoding processes, or dali in the trainer (`lavie[dali]`), which
    serves most codecs on a GPU, VP8 and VP9 without one. Default: auto, dali on a GPU where it serves; the log says
    why."""

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        """Make lists of a single path or dataset."""
        if isinstance(values, Mapping):
            values = dict(values)
            for key in {"train", "validation"} & values.keys():
                value = values[key]
                if isinstance(value, str):
                    value = _single(value, key)
                values[key] = (value,) if isinstance(value, Mapping) else () if value is None else value
        return values

    @model_validator(mode="after")
    def _datasets(self) -> "DataConfig":
        """Check that train holds either paths or datasets, and that these have different names."""
        if len({type(entry) for entry in self.train}) > 1:
            raise ValueError("train names datasets and bare paths: give every path a weight, as {path: ..., weight: 1}")
        names = sorted(entry.name for entry in self.train if isinstance(entry, DatasetConfig))
        if twice := {a for a, b in itertools.pairwise(names) if a == b}:
            raise ValueError(f"train has several datasets of the name {min(twice)}: give each its own name")
        return self

    @model_validator(mode="after")
    def _check_buckets(self) -> "DataConfig":
        """Check that buckets differ, and that weights are given to all or to none and can be reckoned with."""
        names = sorted(bucket.name for bucket in self.buckets)
        if twice := [a for a, b in itertools.pairwise(names) if a == b]:
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
        """Check that one of fps and frame_stride is given, and that a moving camera has room."""
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
    def _check_images_alone(self) -> "DataConfig":
        """Check that rows without a clip have images, and one size."""
        if self.images_alone and not self.num_images:
            raise ValueError("images_alone is true and num_images is 0: a row would be empty, set num_images to 1")
        if self.images_alone and (self.moving_images or self.buckets):
            other = "moving_images" if self.moving_images else "buckets"
            raise ValueError(f"images_alone is true and {other} is set, which is for clips: leave one of them out")
        return self

    @model_validator(mode="after")
    def _cacheable(self) -> "DataConfig":
        """Check that with a cache every visit of a sample finds one of fixed cuts."""
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
        """The size of clips without buckets, and that of validation."""
        return BucketConfig(num_frames=self.num_frames, height=self.height, width=self.width)

    @property
    def takes_videos(self) -> bool:
        """Whether any row of training shows a clip of a video."""
        return not self.images_alone and self.moving_images < 1

    def frames_of_row(self, size: BucketConfig) -> int:
        """Return how many frames a row of training has whose clip, if it has one, is of a size; images count too."""
        return self.num_images + (0 if self.images_alone else size.num_frames)

    @property
    def sizes(self) -> tuple[BucketConfig, ...]:
        """The sizes that clips are trained on: the buckets, or the one size."""
        return self.buckets or (self.size,)

    def of_size(self, size: BucketConfig) -> "DataConfig":
        """Return this section for the clips of one size, without buckets."""
        only = {"num_frames": size.num_frames, "height": size.height, "width": size.width, "buckets": ()}
        return self.model_copy(update=only)

    @property
    def smallest_image(self) -> int:
        """Pixels of an image's shorter side below which it is left out."""
        return max(self.min_size, self.min_image_size)

    @property
    def train_paths(self) -> tuple[str, ...]:
        """The paths of all entries of `train`, in their order."""
        return tuple(path for e in self.train for path in (e.path if isinstance(e, DatasetConfig) else (e,)))

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of `train` and `validation`, each once."""
        return tuple(dict.fromkeys((*self.train_paths, *self.validation)))

    @property
    def held_out(self) -> "DataConfig":
        """This section for reading `validation`: clips of the one size, no moving images, no images alone."""
        return self.of_size(self.size).model_copy(update={"moving_images": 0.0, "images_alone": False, "exclude": ()})


Filter = Literal["box", "bilinear", "bicubic", "lanczos"]


class DegradationConfig(Strict):
    """How the low resolution of a super-resolution pair is made from the high one.

    Filter, blur, noise and quality are drawn for each clip. The paper says nothing of it; the defaults are mild.
    """

    scale: int = Field(4, ge=2)
    """Pixels of the high resolution per pixel of the low one, along both axes; the autoencoder's pixels per latent, as
    the low resolution joins the latents. Default: the paper's."""
    filters: tuple[Filter, ...] = Field(("box", "bilinear", "bicubic", "lanczos"), min_length=1)
    """Resampling filters, of which one shrinks the frames. Default: all."""
    blur: tuple[float, float] = (0.0, 1.5)
    """Range, within 0 .. 100, of the standard deviation, in pixels of the high resolution, of a Gaussian blur before
    shrinking."""
    noise: tuple[float, float] = (0.0, 0.02)
    """Range, within 0 .. 1, of the standard deviation, where black is 0 and white is 1, of Gaussian noise added to each
    frame after shrinking."""
    jpeg_quality: tuple[int, int] = (70, 100)
    """Range, within 1 .. 100, of the quality of JPEG compression at the end; 100 leaves it out."""

    @model_validator(mode="after")
    def _check(self) -> "DegradationConfig":
        """Check that every range has its lowest value first and stays within its bounds."""
        for key, highest in (("blur", 100.0), ("noise", 1.0), ("jpeg_quality", 100)):
            low, high = getattr(self, key)
            if not (1 if key == "jpeg_quality" else 0) <= low <= high <= highest:
                raise ValueError(f"{key} is [{low}, {high}]: wanted a range, lowest first, up to {highest}")
        return self
