"""Buckets: every sample in the one that suits it, one size a step, and a sequence as exact as without them."""

import itertools
import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lavie.config.data import BucketConfig, DataConfig, DegradationConfig
from lavie.config.load import dump_yaml, validate
from lavie.data.feed.bucket_rows import BucketRows
from lavie.data.feed.loader import build_loader, fixed_batches
from lavie.data.feed.share import Share
from lavie.data.media.clips import cut_scale
from lavie.data.media.encode import encode_mp4
from lavie.data.order.buckets import ALIKE, best_sizes, load_buckets, scale_and_cut, suitable_sizes
from lavie.data.order.permutation import sample_at
from lavie.data.order.sample_order import image_order, video_order
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.data.shards.index import load_index
from lavie.errors import ConfigError
from tests.data.order.sized import write_sized

GLOBAL_BATCH, STEPS = 12, 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """wide: long and short wide clips, images of both shapes; mixed: wide and tall clips, few images; tall: clips."""
    out = tmp_path_factory.mktemp("buckets")
    wide = {f"v{i}": (32, 20, 9 if i % 3 else 5) for i in range(10)}
    mixed = {f"v{i}": (20, 32, 6) if i % 2 else (36, 20, 10) for i in range(20, 27)}
    write_sized(out / "wide", **wide, **{f"i{i}": (32, 18) if i % 2 else (20, 30) for i in range(7)})
    write_sized(out / "mixed", **mixed, i20=(40, 24), i21=(24, 40))
    write_sized(out / "tall", **{f"v{i}": (20, 30, 12) for i in range(40, 43)})
    return out


BUCKETS = [
    {"num_frames": 4, "height": 16, "width": 24},
    {"num_frames": 8, "height": 16, "width": 24},
    {"num_frames": 4, "height": 24, "width": 16},
]
MOVING = {"num_images": 0, "moving_images": 0.4, "crop": "patch"}


def config(folders, **changes) -> DataConfig:
    train = [
        {"path": str(folders / "wide"), "name": "wide", "weight": [[1, 1.0], [6, 0.25]]},
        {"path": str(folders / "mixed"), "name": "mixed", "weight": [[1, 0.2], [6, 1.0]], "image_weight": 1},
        {"path": str(folders / "tall"), "name": "tall", "weight": 0.3},
    ]
    values = {"train": train, "num_frames": 2, "num_images": 2, "height": 8, "width": 8, "fps": 8, "num_workers": 0}
    return DataConfig(**{**values, "buckets": BUCKETS, **changes})


def sequence(data, *, ranks=1, start_step=0, steps=STEPS, seed=0, accumulation=1, degradation=None):
    """(position, keys, shape of pixels, a number that stands for them) of every row of all ranks, by position."""
    rows = []
    for rank in range(ranks):
        loader = build_loader(
            data,
            data.train,
            Share(
                seed=seed,
                train_batch_size=GLOBAL_BATCH // ranks // accumulation,
                gradient_accumulation_steps=accumulation,
                rank=rank,
                world_size=ranks,
            ),
            start_step=start_step,
            degradation=degradation,
        )
        for batch in itertools.islice(loader, steps * accumulation):
            sums = (batch["pixels"].long().flatten(1) * torch.arange(1, 1 + batch["pixels"][0].numel())).sum(1)
            shapes = [tuple(batch["pixels"].shape[1:4])] * len(sums)
            rows += zip(batch["positions"].tolist(), batch["keys"], shapes, sums.tolist(), strict=True)
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
    assert sequence(config(folders, num_workers=num_workers), ranks=ranks) == expected


@pytest.mark.parametrize("start_step", range(STEPS))
def test_a_resumed_run_goes_on_with_the_tail(folders, expected, start_step):
    tail = sequence(config(folders), start_step=start_step, steps=STEPS - start_step)
    assert tail == expected[start_step * GLOBAL_BATCH :]


def test_accumulation_does_not_change_the_sequence(folders, expected):
    assert sequence(config(folders), ranks=2, accumulation=3) == expected


def test_a_step_has_one_size_and_samples_that_belong_to_it(folders, expected):
    data = config(folders)
    buckets = load_buckets(data, data.train, 0)
    kinds = set()
    for step in range(STEPS):
        rows = expected[step * GLOBAL_BATCH : (step + 1) * GLOBAL_BATCH]
        bucket = buckets.at(step)
        size = bucket.data.size
        assert {row[2] for row in rows} == {(size.num_frames + 2, size.height, size.width)}
        kinds.add(bucket.name)
        clips = {s.key for pool in bucket.datasets for s in pool.index.videos}
        images = {s.key for pool in bucket.datasets for s in pool.index.images}
        assert all(keys[0] in clips and set(keys[1:]) <= images for _, keys, _, _ in rows)
    assert kinds == {"4x16x24", "8x16x24", "4x24x16"}


def test_every_sample_belongs_to_one_bucket(folders):
    data = config(folders)
    buckets = load_buckets(data, data.train, 0)
    for number, dataset in enumerate(data.train):
        index = load_index(dataset.path)
        parts = [bucket.datasets[number].index for bucket in buckets.all]
        assert sorted(s.key for part in parts for s in part.videos) == sorted(s.key for s in index.videos)
        # The first two have their height and width, and so their images, in common.
        assert [s.key for s in parts[0].images] == [s.key for s in parts[1].images]
        images = [s.key for part in parts[1:] for s in part.images]
        assert sorted(images) == sorted(s.key for s in index.images)
        for bucket, part in zip(buckets.all, parts, strict=True):
            size = bucket.data.size
            assert all((s.width > s.height) == (size.width > size.height) for s in part)
            assert all(s.frames >= size.num_frames for s in part.videos)
            assert all(s.frames < 8 for s in part.videos) or size.num_frames == 8 or size.width < size.height


def test_each_dataset_goes_through_its_own_permutations_in_each_bucket(folders):
    data = config(folders)
    buckets = load_buckets(data, data.train, 3)
    orders = [video_order(b.datasets, 3, GLOBAL_BATCH, b.step_count) for b in buckets.all]
    image_orders = [image_order(b.datasets, 3, 2 * GLOBAL_BATCH, step_count=b.image_step_count) for b in buckets.all]
    clips, images = defaultdict(list), defaultdict(list)
    for step in range(120):
        number, _ = buckets.steps.at(step)
        shape = buckets.all[number].shape
        for position in range(step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH):
            name = orders[number].names[orders[number].mixture.at(position)[0]]
            clips[number, name].append(orders[number].at(position).key)
            order = image_orders[number]
            for p in (2 * position, 2 * position + 1):
                images[shape, order.names[order.mixture.at(p)[0]]].append(order.at(p).key)
    for kind, taken in (("videos", clips), ("images", images)):
        for (home, name), keys in taken.items():
            bucket = next(b for i, b in enumerate(buckets.all) if home in (i, b.shape))
            samples = getattr(bucket.datasets[["wide", "mixed", "tall"].index(name)].index, kind)
            n = len(samples)
            assert keys == [samples[sample_at(i, n, 3, f"{kind} of {name}")].key for i in range(len(keys))]
    assert len(clips) == 5 and len(images) == 4


def test_every_sample_comes_equally_often_by_default(folders):
    data = config(folders, train=[str(folders / name) for name in ("wide", "mixed", "tall")], num_images=0)
    buckets = load_buckets(data, data.train, 0)
    orders = [video_order(bucket.datasets, 0, 10, bucket.step_count) for bucket in buckets.all]
    taken = Counter()
    for position in range(10 * 400):
        sample = orders[buckets.steps.at(position // 10)[0]].at(position)
        taken[sample.shard, sample.key] += 1
    assert len(taken) == 20 and sum(taken.values()) == 4000
    assert max(taken.values()) - min(taken.values()) <= 20  # of 200: a bucket is a step or two ahead of its share


def test_weights_of_buckets_are_shares_of_the_steps(folders):
    data = config(
        folders, buckets=[{**b, "weight": w} for b, w in zip(BUCKETS, (1, [[0, 1], [500, 3]], 2), strict=True)]
    )
    steps = load_buckets(data, data.train, 0).steps
    taken = np.array([np.array(steps.counts(s)) for s in (0, 500, 1500)])
    exact = np.array([[1, 1 + 2 * s / 500, 2] for s in range(500)])
    assert np.abs(taken[1] - (exact / exact.sum(1, keepdims=True)).sum(0)).max() < 3
    assert np.abs(taken[2] - taken[1] - np.array([1, 3, 2]) * 1000 / 6).max() < 3


@pytest.mark.slow
def test_a_bad_sample_is_replaced_by_one_of_its_bucket_and_others_stay(folders, tmp_path, expected):
    for name in ("wide", "mixed", "tall"):
        shutil.copytree(folders / name, tmp_path / name)
    bad = next(s for s in load_index((str(tmp_path / "wide"),)).videos if s.frames == 9)
    with open(bad.shard, "r+b") as file:
        file.seek(bad.offset + bad.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    data = config(tmp_path)
    pools = next(b for b in load_buckets(data, data.train, 0).all if b.name == "8x16x24").datasets
    spares = {s.key for s in pools[0].index.videos} - {bad.key}
    changed = [(a, b) for a, b in zip(expected, sequence(data), strict=True) if a != b]
    assert len(changed) == sum(row[1][0] == bad.key for row in expected) > 0
    for before, after in changed:
        assert before[1][0] == bad.key and after[1][0] in spares
        assert (after[0], after[1][1:], after[2]) == (before[0], before[1][1:], before[2])


@pytest.mark.slow
def test_moving_images_and_low_resolution_have_the_buckets_size(folders):
    data = config(folders, **MOVING)
    rows, how = sequence(data, degradation=DegradationConfig()), DegradationConfig()
    images = {s.key for dataset in data.train for s in load_index(dataset.path).images}
    assert 0.2 < sum(keys[0] in images for _, keys, _, _ in rows) / len(rows) < 0.6
    assert {shape for _, _, shape, _ in rows} == {(4, 16, 24), (8, 16, 24), (4, 24, 16)}
    buckets = load_buckets(data, data.train, 0)
    dataset = BucketRows(buckets, 0, global_batch=GLOBAL_BATCH, degradation=how)
    for step in range(STEPS):
        frames, height, width = dataset.row(step * GLOBAL_BATCH)["pixels"].shape[:3]
        assert dataset.row(step * GLOBAL_BATCH)["low_res"].shape == (frames, height // 4, width // 4, 3)
    assert dataset.row_bytes == 8 * 16 * 24 * 3 * 17 // 16
    workers = config(folders, **MOVING, num_workers=2)
    assert sequence(workers, degradation=how) == rows


def test_validation_keeps_the_one_size(folders):
    data = config(folders, **MOVING).held_out
    for batch in fixed_batches(data, [str(folders / "mixed")], Share(seed=0, train_batch_size=4), num_batches=2):
        assert batch["pixels"].shape == (4, 2, 8, 8, 3)
        assert all(caption.startswith("v") for row in batch["captions"] for caption in row)


# --- which bucket

sizes = st.builds(BucketConfig, num_frames=st.integers(1, 64), height=st.integers(1, 40), width=st.integers(1, 40))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(sizes, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=8),
    st.sampled_from(["cover", "patch"]),
    st.data(),
)
def test_the_rule_sample_by_sample(buckets, sources, crop, data):
    held = np.array([[data.draw(st.booleans()) for _ in sources] for _ in buckets])
    held[data.draw(st.integers(0, len(buckets) - 1))] = True
    widths, heights = np.array(sources, float).T
    found, (suits, _) = (
        best_sizes(widths, heights, held, buckets, crop),
        suitable_sizes(widths, heights, held, buckets, crop),
    )
    for n, (width, height) in enumerate(sources):
        able = [b for b in range(len(buckets)) if held[b, n]]
        scale = {b: cut_scale(height, width, buckets[b].height, buckets[b].width, crop) for b in able}
        least = min(max(1, s) for s in scale.values())
        able = [b for b in able if max(1, scale[b]) <= (1 + ALIKE) * least]
        cut = {b: 1 - buckets[b].height * buckets[b].width / (scale[b] ** 2 * width * height) for b in able}
        able = [b for b in able if cut[b] <= ALIKE + min(cut.values())]
        assert np.flatnonzero(suits[:, n]).tolist() == able
        size = {b: buckets[b].num_frames * buckets[b].height * buckets[b].width for b in able}
        able = [b for b in able if size[b] == max(size.values())]
        assert found[n] == min(able, key=lambda b: (cut[b], b))


def home(width, height, frames, *names, crop="cover"):
    buckets = [BucketConfig(**dict(zip(("num_frames", "height", "width"), n, strict=True))) for n in names]
    held = np.array([[bucket.num_frames <= frames] for bucket in buckets])
    return names[int(best_sizes(np.array([float(width)]), np.array([float(height)]), held, buckets, crop)[0])]


def test_the_rule_in_cases():
    small, base, tall, square, hd = (16, 160, 256), (16, 320, 512), (16, 512, 320), (16, 384, 384), (16, 720, 1280)
    assert home(1920, 1080, 16, small, base, tall, square) == base
    assert home(1080, 1920, 16, small, base, tall, square) == tall
    assert home(720, 720, 16, small, base, tall, square) == square
    assert home(1278, 718, 16, base, hd) == hd  # enlarged by 0.3 %
    assert home(640, 360, 16, base, hd) == base
    assert home(320, 180, 16, small, base) == small
    assert home(100, 60, 16, base, hd) == base  # enlarged anyway: the least
    assert home(1920, 1080, 48, base, (48, 320, 512), (49, 320, 512)) == (48, 320, 512)
    assert home(1920, 1080, 99, (61, 192, 320), base) == (61, 192, 320)
    # Own resolution: the largest patch that there is in it.
    assert home(640, 360, 16, small, base, tall, hd, crop="patch") == base
    assert home(300, 300, 16, (16, 256, 256), (16, 512, 512), crop="patch") == (16, 256, 256)


@given(
    st.integers(1, 99), st.integers(1, 99), st.integers(1, 99), st.integers(1, 99), st.sampled_from(["cover", "patch"])
)
def test_what_becomes_of_a_picture(source_height, source_width, height, width, crop):
    (scale,), (cut,) = scale_and_cut(
        np.array([float(source_width)]), np.array([float(source_height)]), height, width, crop
    )
    assert scale == cut_scale(source_height, source_width, height, width, crop)
    kept = min(width / scale, source_width) * min(height / scale, source_height)
    assert cut == pytest.approx(1 - kept / (source_width * source_height), abs=1e-12)


def test_variable_rates_are_taken_for_constant_ones(tmp_path):
    pixels = np.zeros((6, 16, 24, 3), np.uint8)
    long, short = ([0, 0.1, 0.3, 0.35, 0.5, 0.625], [0, 0.05, 0.1, 0.12, 0.2, 0.25])
    media = {
        "long": encode_mp4(pixels, times=long),
        "short": encode_mp4(pixels, times=short),
        "v": encode_mp4(pixels, 8),
    }
    pack_files((CaptionedFile(n, n, lambda d=d: d, n) for n, d in media.items()), tmp_path, num_frames=1, fps=8)
    data = DataConfig(
        train=str(tmp_path), num_images=0, fps=8, buckets=[{**BUCKETS[0], "num_frames": n} for n in (4, 6)]
    )
    buckets = load_buckets(data, data.train, 0)
    homes = {b.name: sorted(s.caption for s in b.datasets[0].index) for b in buckets.all}
    assert homes == {"4x16x24": ["short"], "6x16x24": ["long", "v"]}


def test_a_bucket_whose_turn_comes_must_hold_something(folders):
    wide = {"num_frames": 4, "height": 8, "width": 64}
    data = config(folders, buckets=[*BUCKETS, wide])
    steps = load_buckets(data, data.train, 0).steps  # by default its turn never comes
    assert steps.counts(10_000)[3] == 0
    weighed = [{**bucket, "weight": 1} for bucket in (*BUCKETS, wide)]
    with pytest.raises(
        ConfigError, match=r"data.buckets: 4x8x64 has a weight, but no video belongs there: leave it out"
    ):
        load_buckets(config(folders, buckets=weighed), data.train, 0)
    tall = config(folders, train=str(folders / "tall"), num_images=0, buckets=BUCKETS[2:])
    assert load_buckets(tall, tall.train, 0)


def test_images_join_every_bucket_that_suits_them(tmp_path):
    write_sized(tmp_path, v1=(24, 16, 4), v2=(48, 32, 2), v3=(16, 24, 2), i1=(24, 16), i2=(48, 32), i3=(30, 16))
    sizes = [(4, 16, 24), (2, 16, 24), (2, 32, 48), (2, 24, 16)]
    buckets = [dict(zip(("num_frames", "height", "width"), size, strict=True)) for size in sizes]
    data = DataConfig(train=str(tmp_path), fps=8, num_images=1, height=8, width=8, buckets=buckets)
    each = load_buckets(data, data.train, 0).all
    images = {b.name: [s.caption for s in b.datasets[0].index.images] for b in each}
    assert images == {
        "4x16x24": ["i1", "i2", "i3"],
        "2x16x24": ["i1", "i2", "i3"],
        "2x32x48": ["i2"],
        "2x24x16": ["i1", "i2", "i3"],  # none suits it
    }
    assert [b.takes_all_images for b in each] == [False, False, False, True]


def test_a_step_without_weights_is_refused(folders):
    gone = [[0, 1], [40, 0], [50, 1]]
    data = config(folders, buckets=[{**bucket, "weight": gone} for bucket in BUCKETS])
    with pytest.raises(ConfigError, match=r"data.buckets: at step 40 the weights of all buckets are 0"):
        load_buckets(data, data.train, 0)
    train = [{"path": str(folders / name), "weight": gone} for name in ("wide", "tall")]
    data = config(folders, train=train)
    with pytest.raises(ConfigError, match=r"data.train: at step 40 the weights of all datasets with videos are 0"):
        load_buckets(data, data.train, 0)
    # A bucket's only dataset may go, if the bucket goes with it; and may not, if it stays.
    train = [{"path": str(folders / "wide"), "weight": 1}, {"path": str(folders / "tall"), "weight": [[0, 1], [40, 0]]}]
    data = config(folders, train=train, num_images=0)
    buckets = load_buckets(data, data.train, 0)
    BucketRows(buckets, 0, global_batch=4)
    assert buckets.steps.counts(40)[2] == buckets.steps.counts(9999)[2] > 5
    data = config(folders, train=train, num_images=0, buckets=[{**bucket, "weight": 1} for bucket in BUCKETS])
    with pytest.raises(
        ConfigError, match=r"at step 40 the weights of all datasets with videos in bucket 4x24x16 are 0 \(tall"
    ):
        BucketRows(load_buckets(data, data.train, 0), 0, global_batch=4)


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"buckets": [BUCKETS[0], BUCKETS[1], BUCKETS[0]]}, "buckets has 4x16x24 twice: leave one out"),
        ({"buckets": [{**BUCKETS[0], "weight": 1}, BUCKETS[1]]}, "1 of 2 have a weight: give one to all, or to none"),
        (
            {"buckets": [{**BUCKETS[0], "hight": 1}]},
            "unknown key hight of a bucket; valid keys: num_frames, height, width",
        ),
        ({"buckets": [{**BUCKETS[0], "weight": 0}]}, "bucket 4x16x24 has the weight 0 throughout: leave it out"),
        ({"buckets": [{"num_frames": 4, "height": 16}]}, r"key buckets.0.width is missing"),
        ({"buckets": [{**BUCKETS[0], "num_frames": 0}]}, r"buckets\.0\.num_frames: wanted 1 or more \(got 0\)"),
        (
            {"buckets": BUCKETS, "moving_images": 1, "crop": "patch"},
            "have no weight, and at moving_images 1 there are no",
        ),
    ),
)
def test_faulty_buckets_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        validate(DataConfig, {"train": "x", "fps": 8, **changes}, "run.yaml")


def test_buckets_survive_the_resolved_config(folders):
    data = config(folders, buckets=[{**bucket, "weight": [[0, 1], [9, 2]]} for bucket in BUCKETS])
    assert DataConfig(**yaml.safe_load(dump_yaml(data))) == data
    assert [size.name for size in data.sizes] == ["4x16x24", "8x16x24", "4x24x16"]
    assert [size.name for size in data.held_out.sizes] == ["2x8x8"]


def test_each_bucket_takes_images_by_its_share_of_each_dataset(tmp_path):
    """By hand: a dataset's image_weight times the share of its images that suit the bucket, not its video weight."""
    write_sized(tmp_path / "a", va=(24, 16, 8), i1=(24, 16), i2=(24, 16), i3=(24, 16), i4=(16, 24))
    write_sized(tmp_path / "b", vb=(16, 24, 8), i5=(24, 16), i6=(16, 24))
    train = [
        {"path": str(tmp_path / "a"), "name": "a", "weight": 5, "image_weight": 2},
        {"path": str(tmp_path / "b"), "name": "b", "weight": 7, "image_weight": [[0, 1], [10, 4]]},
    ]
    sizes = [{"num_frames": 4, "height": 16, "width": 24}, {"num_frames": 4, "height": 24, "width": 16}]
    data = DataConfig(train=train, buckets=sizes, num_images=1, fps=8)
    wide, tall = load_buckets(data, data.train, 0).all
    # Three of a's four images are wide and one is tall; one each of b's two.
    assert [dataset.image_weight for dataset in wide.datasets] == [((0, 2 * 3 / 4),), ((0, 0.5), (10, 2.0))]
    assert [dataset.image_weight for dataset in tall.datasets] == [((0, 2 * 1 / 4),), ((0, 0.5), (10, 2.0))]
    assert [dataset.weight for dataset in wide.datasets] == [((0, 5.0),), ((0, 0.0),)]
    assert [dataset.weight for dataset in tall.datasets] == [((0, 0.0),), ((0, 7.0),)]
