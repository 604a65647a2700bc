"""The loader over a mixture: one sequence for any ranks and workers, resumed anywhere, each dataset in its order."""

import itertools
import shutil
from collections import Counter

import pytest
import torch
import yaml

from lavie.config.data import DataConfig
from lavie.config.load import dump_yaml, validate
from lavie.data.feed.loader import build_loader
from lavie.data.feed.share import Share
from lavie.data.order.datasets import load_datasets
from lavie.data.order.permutation import sample_at
from lavie.data.order.sample_order import image_order, video_order
from lavie.data.prepare.synthetic import demo_set
from lavie.data.shards.index import load_index
from lavie.errors import ConfigError

GLOBAL_BATCH, STEPS = 12, 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write three datasets: a of many clips and images, b of fewer, c of two clips and many images."""
    out = tmp_path_factory.mktemp("mixture")
    for seed, (name, clips, images) in enumerate([("a", 10, 5), ("b", 4, 3), ("c", 2, 6)]):
        demo_set(out / name, clips=clips, images=images, size=16, frames=8, seed=seed)
    return out


def config(folders, **changes) -> DataConfig:
    train = [
        {"path": str(folders / "a/train"), "name": "a", "weight": [[1, 1.0], [5, 0.25]]},
        {"path": str(folders / "b/train"), "name": "b", "weight": [[1, 0.0], [5, 1.0]], "image_weight": 1},
        {"path": str(folders / "c/train"), "name": "c", "weight": 0.3, "image_weight": [[2, 1], [4, 0]]},
    ]
    values = {"train": train, "num_frames": 4, "num_images": 2, "height": 16, "width": 16, "fps": 8, "num_workers": 0}
    return DataConfig(**{**values, **changes})


def sequence(data, *, ranks=1, start_step=0, steps=STEPS, seed=0):
    """Return (position, keys, a number that stands for the pixels) of every row of all ranks, by position."""
    rows = []
    for rank in range(ranks):
        loader = build_loader(
            data,
            data.train,
            Share(seed=seed, train_batch_size=GLOBAL_BATCH // ranks, rank=rank, world_size=ranks),
            start_step=start_step,
        )
        for batch in itertools.islice(loader, steps):
            sums = (batch["pixels"].long().flatten(1) * torch.arange(1, 1 + batch["pixels"][0].numel())).sum(1)
            rows += zip(batch["positions"].tolist(), batch["keys"], sums.tolist(), strict=True)
        loader.close()
    return sorted(rows)


@pytest.fixture(scope="module")
def expected(folders):
    return sequence(config(folders))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", (0, 1, 4))
@pytest.mark.parametrize("ranks", (1, 2, 3, 4))
def test_ranks_and_workers_do_not_change_the_sequence(folders, expected, ranks, num_workers):
    assert [row[0] for row in expected] == list(range(GLOBAL_BATCH * STEPS))
    clips = Counter(keys[0] for _, keys, _ in expected)
    # Several epochs of each dataset.
    assert len(clips) == 16
    assert min(clips.values()) >= 2
    assert sequence(config(folders, num_workers=num_workers), ranks=ranks) == expected


@pytest.mark.parametrize("start_step", range(STEPS))
def test_a_resumed_run_goes_on_with_the_tail(folders, expected, start_step):
    tail = sequence(config(folders), start_step=start_step, steps=STEPS - start_step)
    assert tail == expected[start_step * GLOBAL_BATCH :]


def test_each_dataset_goes_through_its_own_permutations(folders):
    data = config(folders)
    pools = load_datasets(data, data.train)
    for order, kind in ((video_order(pools, 3, 12), "videos"), (image_order(pools, 3, 24), "images")):
        taken = {pool.name: [] for pool in pools}
        for position in range(400):
            dataset, place = order.mixture.at(position)
            name = order.names[dataset]
            assert place == len(taken[name])
            taken[name].append(order.at(position).key)
        for pool in pools:
            samples, keys = getattr(pool.index, kind), taken[pool.name]
            n = len(samples)
            assert keys == [samples[sample_at(i, n, 3, f"{kind} of {pool.name}")].key for i in range(len(keys))]
            assert len(keys) > 2 * n or kind == "images"
            for first in range(0, len(keys) - n + 1, n):
                assert max(Counter(keys[first : first + n]).values()) == 1


def test_a_dataset_keeps_its_order_when_others_come_and_go(folders):
    def keys(data):
        pools = load_datasets(data, data.train)
        order = video_order(pools, 0, 12)
        return [order.at(p).key for p in range(200) if order.names[order.mixture.at(p)[0]] == "a"]

    both, alone = config(folders), config(folders)
    alone = DataConfig(**{**alone.model_dump(), "train": [alone.train[0]]})
    few = keys(both)
    assert few == keys(alone)[: len(few)]


def test_one_pool_of_paths_has_the_order_it_always_had(folders):
    paths = (str(folders / "a/train"), str(folders / "b/train"))
    data = config(folders, train=paths)
    index = load_index(paths)
    rows = sequence(data, steps=2)
    assert [keys[0] for _, keys, _ in rows] == [
        index.videos[sample_at(p, len(index.videos), 0, "videos")].key for p in range(24)
    ]
    assert [k for _, keys, _ in rows for k in keys[1:]] == [
        index.images[sample_at(p, len(index.images), 0, "images")].key for p in range(48)
    ]


@pytest.mark.slow
def test_a_bad_sample_changes_nothing_but_itself(folders, tmp_path, expected):
    for name in "abc":
        shutil.copytree(folders / name, tmp_path / name)
    bad = load_index((str(tmp_path / "a/train"),)).videos[3]
    with open(bad.shard, "r+b") as file:
        file.seek(bad.offset + bad.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    found = sequence(config(tmp_path))
    changed = [(a, b) for a, b in zip(expected, found, strict=True) if a != b]
    a_keys = {s.key for s in load_index((str(folders / "a/train"),)).videos}
    assert changed
    assert all(before[1][0] == bad.key for before, _ in changed)
    assert all(after[1][0] in a_keys - {bad.key} and after[1][1:] == before[1][1:] for before, after in changed)
    assert sum(row[1][0] == bad.key for row in expected) == len(changed)
    assert sequence(config(tmp_path, num_workers=2), ranks=3) == found  # the spare is the same for all of them
    assert sequence(config(tmp_path), start_step=2, steps=STEPS - 2) == found[2 * GLOBAL_BATCH :]


def test_datasets_that_give_nothing_are_refused(folders):
    data = config(folders)
    images_only = {"path": str(folders / "a/train"), "name": "x", "weight": 0, "image_weight": 1}
    with pytest.raises(ConfigError, match=r"dataset x .* has a weight, but nothing that this run takes.*num_images 0"):
        load_datasets(config(folders, num_images=0), (*data.train, type(data.train[0])(**images_only)))
    one = config(folders, train=[images_only])
    with pytest.raises(ConfigError, match=r"at step 0 the weights of all datasets with videos are 0 \(x\)"):
        build_loader(one, one.train, Share(seed=0, train_batch_size=1))


@pytest.mark.parametrize(
    "train, message",
    (
        ([{"path": "x", "weigth": 1}], "unknown key weigth of a dataset; valid keys: path, name, weight, image_weight"),
        (
            [{"path": "x", "weight": "much"}],
            r"train.0.weight: wanted a number, or knots \[\[step, weight\], ",
        ),
        ([{"path": "x", "weight": [[5, 1], [5, 2]]}], r"the steps of its knots are \[5, 5\]: wanted ascending ones"),
        ([{"path": "x", "weight": -1}], r"train.0.weight.0.1: wanted 0 or more \(got -1\)"),
        (["a", {"path": "x"}], "names datasets and bare paths: give every path a weight"),
        ([{"path": "x"}, {"path": "y/x/"}], "several datasets of the name x: give each its own name"),
        ([{"weight": 1}], "key train.0.path is missing"),
    ),
)
def test_faulty_datasets_are_named(train, message):
    with pytest.raises(ConfigError, match=message):
        validate(DataConfig, {"train": train, "fps": 8}, "run.yaml")


def test_datasets_survive_the_resolved_config(folders):
    data = config(folders)
    assert [(d.name, d.weight) for d in data.train] == [
        ("a", ((1, 1), (5, 0.25))),
        ("b", ((1, 0), (5, 1))),
        ("c", ((0, 0.3),)),
    ]
    assert DataConfig(**yaml.safe_load(dump_yaml(data))) == data
    assert DataConfig(train={"path": "data/v1.0_web.tar"}, fps=8).train[0].name == "v1.0_web"
