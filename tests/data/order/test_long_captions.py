"""Captions that are cut are counted over all datasets of a run; of very many, over some that are drawn."""

import pytest

from lavie.caption_limit import clip_words
from lavie.config.data import DataConfig
from lavie.data.order import long_captions
from lavie.data.order.datasets import load_datasets
from lavie.data.order.long_captions import count_long
from tests.data.order.sized import write_sized

RULE = "more than 1 words; CLIP reads 1 tokens, of a word or less each"


@pytest.fixture
def train(tmp_path):
    """Two datasets: 4 videos and 1 image with short captions, 2 videos and 2 images with long ones."""
    video, image = (16, 16, 8), (16, 16)
    write_sized(tmp_path / "a", **{"v1": video, "v2": video, "v long": video, "i1": image, "i long": image})
    write_sized(tmp_path / "b", **{"v1 ": video, "v2 ": video, "v very long": video, "i very long": image})
    return [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize("named", (False, True))
@pytest.mark.parametrize("images, long, total", ((0, 2, 6), (1, 4, 9)))
def test_all_captions_of_the_run_are_counted(train, named, images, long, total):
    entries = [{"path": path, "name": path[-1]} for path in train] if named else train
    data = DataConfig(train=entries, num_frames=4, num_images=images, height=16, width=16, fps=8)
    count, line = count_long(load_datasets(data, data.train), data, clip_words(3))
    assert (count, line) == (long, f"long caption: {long} of {total} have {RULE}")


def test_of_many_captions_the_same_ones_are_drawn(train, monkeypatch):
    monkeypatch.setattr(long_captions, "MOST", 5)
    data = DataConfig(train=train, num_frames=4, num_images=1, height=16, width=16, fps=8)
    datasets, limit, seen = load_datasets(data, data.train), clip_words(3), []
    monkeypatch.setattr(type(limit), "count", lambda self, captions: seen.append(list(captions)) or 2)
    lines = [count_long(datasets, data, limit) for _ in range(2)]
    assert lines == [(2, f"long caption: 2 of 5 drawn from 9 have {RULE}")] * 2
    assert seen[0] == seen[1] and len(set(seen[0])) >= 4
    everything = [sample.caption for dataset in datasets for sample in dataset.index]
    places = iter(everything)
    assert all(caption in places for caption in seen[0])  # each once, in order
