"""The datasets of a run: what is too short is refused or left out, and lengths are found chunk by chunk."""

from pathlib import Path

import numpy as np
import pytest

from lavie.config.data import DataConfig
from lavie.config.load import load_config
from lavie.data.media.clips import fits
from lavie.data.order import datasets
from lavie.data.order.buckets import load_buckets
from lavie.data.order.datasets import load_datasets, long_enough
from lavie.errors import DataError
from tests.data.datasets import write_media
from tests.data.order.sized import write_sized

ROOT = Path(__file__).resolve().parents[3]

BUCKETS = [{"num_frames": 4, "height": 16, "width": 24}, {"num_frames": 8, "height": 16, "width": 24}]


def test_short_videos_are_refused_or_left_out_as_told(tmp_path, caplog):
    write_sized(tmp_path, v1=(24, 16, 3), v2=(24, 16, 4), v3=(24, 16, 9), i1=(24, 16))
    one = DataConfig(train=str(tmp_path), num_images=1, height=8, width=8, fps=8, buckets=BUCKETS)
    message = (
        r"1 of 3 videos hold no clip of 4 frames at 8 fps \(first: .*v1\)\. Change the shortest of data\.buckets, .*"
    )
    with pytest.raises(DataError, match=message + r"data\.drop_short=true.*--num-frames 4 --fps 8"):
        load_buckets(one, one.train, 0)
    dropping = one.model_copy(update={"drop_short": True})
    with caplog.at_level("INFO", "lavie"):
        buckets = load_buckets(dropping, dropping.train, 0)
    note = r"1 of 3 videos are left out, which hold no clip of 4 frames at 8 fps (first: "
    assert note in caplog.text and note in buckets.all[0].datasets[0].left_out[0]
    assert [[s.caption for s in b.datasets[0].index] for b in buckets.all] == [["v2", "i1"], ["v3", "i1"]]
    alone = dropping.model_copy(update={"buckets": (), "num_frames": 9})
    assert [s.caption for s in load_buckets(alone, alone.train, 0).all[0].datasets[0].index] == ["v3", "i1"]
    none = dropping.model_copy(update={"buckets": (), "num_frames": 99})
    with pytest.raises(DataError, match="no videos among 1 samples"):
        load_buckets(none, none.train, 0)


def test_lengths_are_those_of_each_video_in_chunks_of_any_size(tmp_path, monkeypatch):
    write_sized(tmp_path, **{f"v{frames}": (24, 16, frames) for frames in range(1, 8)})
    data = DataConfig(train=str(tmp_path), num_frames=1, num_images=0, height=8, width=8, fps=4)
    (dataset,) = load_datasets(data, data.train)
    counts = [1, 2, 3, 4]
    expected = [[fits(video.frames, video.fps, count, 4, None) for video in dataset.index.videos] for count in counts]
    assert len({tuple(row) for row in expected}) == 4  # every count rules out others
    for chunk in (1, 3, 7, 1 << 17):
        monkeypatch.setattr(datasets, "CHUNK", chunk)
        np.testing.assert_array_equal(long_enough(dataset.index.videos, data, counts), expected)


class Videos:
    """The columns of an index that lengths are told from."""

    def __init__(self, frames, fps):
        self.columns = {"frames": np.array(frames, np.uint32), "fps": np.array(fps)}

    def column(self, name):
        return self.columns[name]

    def __len__(self):
        return len(self.columns["frames"])


def test_lengths_are_those_of_videos_of_several_rates():
    """Each video is judged by its own frames and its own rate: 9 frames are 9 s, 1.1 s or 0.3 s."""
    pairs = [(frames, fps) for frames in (1, 2, 5, 9, 40) for fps in (29.97, 1.0, 8.0)]
    data = DataConfig(train="x", num_frames=1, num_images=0, height=8, width=8, fps=4)
    counts = [1, 3, 6]
    expected = [[fits(frames, fps, count, 4, None) for frames, fps in pairs] for count in counts]
    assert len({tuple(row) for row in expected}) == 3
    np.testing.assert_array_equal(long_enough(Videos(*zip(*pairs, strict=True)), data, counts), expected)


def test_images_have_the_weight_of_the_videos_unless_they_have_their_own(tmp_path):
    write_sized(tmp_path, v1=(24, 16, 4), i1=(24, 16))
    train = [{"path": str(tmp_path), "name": "a", "weight": 2}, {"path": str(tmp_path), "name": "b", "image_weight": 3}]
    data = DataConfig(train=train, num_frames=4, num_images=1, height=8, width=8, fps=8)
    first, second = load_datasets(data, data.train)
    assert (first.weight, first.image_weight) == (((0, 2),), ((0, 2),))
    assert (second.weight, second.image_weight) == (((0, 1),), ((0, 3),))


def test_images_may_be_held_to_a_size_that_videos_need_not_have(tmp_path):
    write_media(tmp_path, v1=(64, 48), v2=(64, 32), i1=(40, 90), i2=(48, 48))
    values = {"train": (str(tmp_path),), "num_frames": 4, "num_images": 1, "height": 16, "width": 16, "fps": 8}

    def kept(**changes):
        (dataset,) = load_datasets(DataConfig(**values, **changes), values["train"])
        return [sample.caption for sample in dataset.index]

    assert kept() == ["v1", "v2", "i1", "i2"]
    assert kept(min_image_size=48) == ["v1", "v2", "i2"]
    assert kept(min_size=40) == ["v1", "i1", "i2"]
    assert kept(min_size=40, min_image_size=48) == ["v1", "i2"]
    with pytest.raises(DataError, match=r"no images of at least 49 pixels \(data\.min_image_size\)"):
        kept(min_image_size=49)


def test_the_super_resolution_config_takes_videos_of_720_lines():
    section = load_config(str(ROOT / "configs/vsr.yaml"), []).data
    assert (section.min_size, section.min_image_size) == (0, 1024)
