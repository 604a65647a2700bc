"""The data section: short forms, faults, and the sections derived from it."""

import pytest

from lavie.config.data import BucketConfig, DataConfig, DatasetConfig, DegradationConfig
from lavie.config.load import validate
from lavie.errors import ConfigError


def data(**values) -> DataConfig:
    return validate(DataConfig, dict(train="clips", fps=8) | values, "data")


def test_a_number_is_a_weight_of_one_knot():
    assert DatasetConfig(path=("x",), weight=2).weight == ((0, 2.0),)
    assert DatasetConfig(path=("x",), weight=[[5, 1], [9, 0]]).weight == ((5, 1.0), (9, 0.0))


@pytest.mark.parametrize(
    "path, name",
    (("data/webvid", "webvid"), ("data/webvid/", "webvid"), ("a/00001.tar", "00001"), ("s3://b/my set", "my-set")),
)
def test_a_dataset_is_named_after_its_path(path, name):
    [dataset] = data(train={"path": path}).train
    assert (dataset.path, dataset.name) == ((path,), name)


def test_single_paths_stand_for_lists():
    section = data(validation="held")
    assert (section.train, section.validation) == (("clips",), ("held",))
    assert data(validation=None).validation == ()


def test_validation_is_of_the_one_size_and_without_a_camera():
    bucket = BucketConfig(num_frames=4, height=16, width=24)
    section = data(buckets=[bucket], moving_images=0.5, crop="patch", height=64, width=64)
    assert section.sizes == (bucket,) and section.held_out.sizes == (section.size,)
    assert (section.held_out.moving_images, section.held_out.height) == (0.0, 64)
    assert section.of_size(bucket).size == bucket and data().sizes == (data().size,)


@pytest.mark.parametrize(
    "values, message",
    (
        (dict(train=[{"path": "x", "wait": 1}]), "unknown key wait of a dataset; valid keys: path, name, weight"),
        (dict(buckets=[dict(frames=1)]), "unknown key frames of a bucket"),
        (
            dict(buckets=[dict(num_frames=1, height=8, width=8, weight=0)]),
            "bucket 1x8x8 has the weight 0 throughout: leave it out",
        ),
        (
            dict(buckets=[dict(num_frames=1, height=8, width=8, weight=1), dict(num_frames=2, height=8, width=8)]),
            "1 of 2 have a weight",
        ),
        (dict(cache="c"), "cuts is null: a cache holds fixed cuts"),
        (dict(moving_images=0.5), "crop cover leaves the camera no room"),
    ),
)
def test_faults_are_told(values, message):
    with pytest.raises(ConfigError, match=message):
        data(**values)


@pytest.mark.parametrize(
    "values, message",
    (
        (dict(blur=[-1, 1]), r"blur is \[-1.0, 1.0\]: wanted a range, lowest first, up to 100"),
        (dict(noise=[0, 2]), r"noise is \[0.0, 2.0\]: wanted a range"),
        (dict(jpeg_quality=[0, 100]), r"jpeg_quality is \[0, 100\]: wanted a range"),
    ),
)
def test_ranges_of_the_degradation(values, message):
    with pytest.raises(ConfigError, match=message):
        validate(DegradationConfig, values, "degradation")


def test_images_alone_have_no_clip_and_validation_has_one():
    section = data(images_alone=True, num_images=2)
    assert not section.takes_videos and section.frames_of_row(section.size) == 2
    assert section.held_out.takes_videos and section.held_out.frames_of_row(section.size) == 18
    with pytest.raises(ConfigError, match="images_alone is true and moving_images is set"):
        data(images_alone=True, moving_images=0.5, crop="patch")
