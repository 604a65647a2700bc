"""A run far from its start and a long one: any step is reached at once, and nothing grows on the way."""

import itertools
import multiprocessing

import psutil
import pytest

from lavie.data.order import permutation as stream
from lavie.data.order.datasets import load_datasets
from lavie.data.order.sample_order import image_order, video_order
from tests.data.feed.loading import processes
from tests.data.feed.long_run import FAR, datasets, loader, measured


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return datasets(tmp_path_factory.mktemp("long"))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", (0, 2))
@pytest.mark.parametrize("step", (10**6, FAR - 1, FAR + 10**9))
def test_any_step_is_reached_at_once(folders, monkeypatch, step, num_workers):
    """The samples are those of the orders there, and what is computed does not depend on how far away it is."""
    permuted = []
    permute = stream.Permutation.__call__
    monkeypatch.setattr(stream.Permutation, "__call__", lambda self, i: permuted.append(i) or permute(self, i))
    batches, data = loader(folders, start_step=step, num_workers=num_workers)
    keys = [key for batch in itertools.islice(batches, 3) for key in batch["keys"]]
    batches.close()
    taken = len(permuted)
    assert taken == (0 if num_workers else 3 * 4 * 3)  # with processes, it is them who do it
    pools = load_datasets(data, data.train)
    videos, images = video_order(pools, 0, 4), image_order(pools, 0, 8)
    first = step * 4
    assert keys == [
        [videos.at(p).key, images.at(2 * p).key, images.at(2 * p + 1).key] for p in range(first, first + 12)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", (0, 1, 4))
@pytest.mark.parametrize("ranks", (2, 3, 4))
def test_a_run_resumed_on_other_ranks_and_workers_goes_on_with_the_tail(folders, ranks, num_workers):
    def rows(batches, steps):
        return [
            row
            for b in itertools.islice(batches, steps)
            for row in zip(b["positions"].tolist(), b["keys"], b["pixels"].flatten(1).tolist(), strict=True)
        ]

    whole, _ = loader(folders, batch=12)
    expected = rows(whole, 5)
    found = []
    for rank in range(ranks):
        batches, _ = loader(folders, 12 // ranks, 2, rank, ranks, num_workers=num_workers)
        found += rows(batches, 3)
        batches.close()
    assert sorted(found) == expected[24:]


@pytest.mark.slow
def test_a_long_run_does_not_grow(folders, monkeypatch):
    """All of it but the decoding. A leak of 90 bytes a step would be seen."""
    rss = measured(folders, 15_000, monkeypatch.setattr)
    assert max(rss[2:]) - rss[1] < 1 << 20, rss


@pytest.mark.slow
def test_processes_do_not_grow(folders):
    others = multiprocessing.active_children()
    batches, _ = loader(folders, batch=8, num_workers=1)
    rss = []
    for step, _ in enumerate(itertools.islice(batches, 240)):
        if step % 60 == 59:
            (process,) = processes(others)
            rss.append(psutil.Process(process.pid).memory_info().rss)
    batches.close()
    # What is lost at every step makes each part of the run grow; an allocator or a thread may take its share once.
    assert min(after - before for before, after in itertools.pairwise(rss)) < (2 << 20) / 3, rss
