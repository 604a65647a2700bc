"""Fixed cuts: the same ones in every run, each of them shown, and the cuts that online training shows."""

import itertools
from functools import partial

import pytest
import torch

from lavie.config.data import DataConfig
from lavie.data.feed.cuts import CutRows, cached_samples
from lavie.data.feed.loader import build_loader, fixed_batches
from lavie.data.feed.share import Share
from lavie.data.order.datasets import WeightedDataset, load_datasets
from lavie.data.shards.index import load_index
from lavie.seeds import key64
from tests.data.datasets import damage, write_lone, write_ramp
from tests.data.feed.loading import small

config = partial(small, num_images=2, height=16, width=24)


def batches(data, steps, seed=0, **kwargs):
    share = Share(seed=seed, train_batch_size=4)
    return list(itertools.islice(build_loader(data, data.train, share, **kwargs), steps))


def shown(data, steps, seed=0):
    """Return, for each sample, the set of all pixels that it was shown with."""
    found = {}
    for batch in batches(data, steps, seed):
        frames = data.num_frames
        for pixels, keys in zip(batch["pixels"], batch["keys"], strict=True):
            parts = [pixels[:frames], *pixels[frames:].split(1)]
            for key, part in zip(keys, parts, strict=True):
                found.setdefault(key, set()).add(part.numpy().tobytes())
    return found


@pytest.mark.slow
def test_a_sample_has_so_many_cuts_whatever_the_seed(demo):
    data = config(demo / "train", cuts=2)
    first, second = (shown(data, 36, seed) for seed in (0, 1))
    # 6 visits of each clip show both of its cuts but with the probability 2^-5, 29 of each image surely.
    assert {len(cuts) for cuts in first.values()} <= {1, 2}
    assert sum(len(cuts) == 2 for cuts in first.values()) > 0.8 * len(first)
    both = [key for key in first if len(first[key]) == len(second[key]) == 2]
    assert len(both) > 20
    assert all(first[key] == second[key] for key in both)
    assert all(first[key] & second[key] for key in first)
    assert all(len(cuts) == 1 for cuts in shown(data.model_copy(update={"cuts": 1}), 36).values())
    free = shown(config(demo / "train"), 36)
    assert sum(len(cuts) > 2 for cuts in free.values()) > 0.8 * len(free)


def test_cuts_are_spread_over_starts_and_places(tmp_path):
    write_ramp(tmp_path, 12)
    rows = CutRows([load_index([str(tmp_path)]).videos], config(tmp_path, num_images=0, cuts=60))
    starts = [round(float(rows.row(cut)["pixels"][0].float().mean()) / 20) for cut in range(60)]
    assert set(starts) == set(range(9))


def test_entries_are_the_cuts_that_training_shows(demo):
    data = config(demo / "train", cuts=3)
    samples = cached_samples(load_datasets(data, data.train), data)
    datasets = {kind: CutRows(indices, data) for kind, indices in samples.items()}
    numbers = {
        kind: {(s.key, cut): 3 * i + cut for i, s in enumerate(indices[0]) for cut in range(3)}
        for kind, indices in samples.items()
    }
    assert [len(n) for n in numbers.values()] == [72, 30]
    for batch in batches(data, 3, seed=5):
        for position, keys, captions, pixels in zip(
            batch["positions"].tolist(), batch["keys"], batch["captions"], batch["pixels"], strict=True
        ):
            places = [("clips", "video", position), *(("images", "image", 2 * position + i) for i in range(2))]
            parts = [pixels[:4], pixels[4:5], pixels[5:]]
            for (kind, word, at), key, caption, part in zip(places, keys, captions, parts, strict=True):
                entry = datasets[kind].row(numbers[kind][key, key64(5, f"{word} cut", at) % 3])
                assert torch.equal(entry["pixels"], part)
                assert (entry["keys"], entry["captions"], entry["dropped"]) == ([key], [caption], [])


def test_validation_is_cut_as_without_cuts(demo):
    share = Share(seed=0, train_batch_size=4)
    plain, cut = (
        fixed_batches(config(demo / "validation", cuts=cuts), (str(demo / "validation"),), share, num_batches=2)
        for cuts in (None, 2)
    )
    assert all(torch.equal(a["pixels"], b["pixels"]) for a, b in zip(plain, cut, strict=True))


def test_a_sample_that_cannot_be_read_is_named(demo, tmp_path):
    index = load_index([str(write_lone(tmp_path))]).videos
    damage(tmp_path, {index[0].key})
    row = CutRows([index], config(tmp_path, num_images=0, cuts=2, verify="never")).row(1)
    assert "pixels" not in row
    assert row["position"] == 1
    assert row["dropped"][0]["key"] == index[0].key
    assert "SHA-256 differs" in row["dropped"][0]["reason"]


def test_datasets_without_weight_need_no_entries(demo):
    train = [
        {"path": str(demo / "train"), "weight": [[0, 0], [10, 1]], "image_weight": 0},
        {"path": str(demo / "validation"), "weight": 0, "image_weight": 1},
    ]
    data = DataConfig(train=train, num_frames=4, num_images=1, height=16, width=24, fps=8, cuts=1)
    pools = load_datasets(data, data.train)
    samples = cached_samples(pools, data)
    sizes = {kind: [len(index) for index in indices] for kind, indices in samples.items()}
    validation = load_index([str(demo / "validation")])
    assert sizes == {"clips": [24], "images": [len(validation.images)]}
    assert cached_samples(pools, data.model_copy(update={"num_images": 0}))["images"] == []


@pytest.mark.parametrize(
    "weights, taken",
    ((((0, 1.0), (9, 0.0)), 1), (((0, 0.0), (9, 1.0)), 1), (((0, 0.0),), 0), (((0, 0.0), (5, 0.0)), 0)),
)
def test_a_dataset_counts_if_it_weighs_anything_at_any_step(demo, weights, taken):
    data = config(demo / "train", cuts=1)
    index = load_index((str(demo / "train"),))
    for others in (((0, 0.0),), ((0, 1.0),)):
        for videos, images in ((weights, others), (others, weights)):
            found = cached_samples([WeightedDataset(index, "x", videos, images)], data)
            present = int(others[0][1] > 0)
            assert len(found["clips"]) == (taken if videos is weights else present)
            assert len(found["images"]) == (taken if images is weights else present)
