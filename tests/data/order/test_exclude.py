"""Samples that data.exclude leaves out: by a list or a file of keys, of which every one must be known."""

from pathlib import Path

import pytest

from lavie.config.data import DataConfig
from lavie.config.load import load_config
from lavie.data.order.datasets import load_datasets
from lavie.data.order.exclude import excluded_keys
from lavie.data.shards.index import load_index
from lavie.errors import ConfigError
from tests.data.order.sized import write_sized

ROOT = Path(__file__).resolve().parents[3]


def of(folder: Path, exclude: str | list[str], **changes: object) -> DataConfig:
    values = {"train": str(folder), "num_images": 1, "num_frames": 4, "height": 8, "width": 8, "fps": 8}
    return DataConfig.model_validate(values | {"exclude": exclude} | changes)


def test_keys_come_from_a_list_or_a_file(tmp_path):
    (tmp_path / "bad.txt").write_text("a-1\n\n 000012 \n#3\n")
    wanted = {"a-1", "000012", "#3"}
    assert excluded_keys(of(tmp_path, ["a-1", "000012", "#3"])) == wanted
    assert excluded_keys(of(tmp_path, str(tmp_path / "bad.txt"))) == wanted
    assert excluded_keys(of(tmp_path, [])) == frozenset()
    with pytest.raises(ConfigError, match=r"data\.exclude is key-7, which is no file.*a list of keys, as \[key\]"):
        excluded_keys(of(tmp_path, "key-7"))


def test_a_key_of_digits_stays_text_on_the_command_line(tmp_path):
    for typed, wanted in (('["000012", "b, c"]', ("000012", "b, c")), ("[000012]", ("000012",)), ("x.txt", "x.txt")):
        overrides = [f"data.exclude={typed}", f"output_dir={tmp_path}"]
        config = load_config(str(ROOT / "configs/smoke/base.yaml"), overrides)
        assert config.data.exclude == wanted
        assert config.data.held_out.exclude == ()


def test_unknown_keys_and_too_many_are_refused_by_name(tmp_path, caplog):
    write_sized(tmp_path, **{f"v{i}": (24, 16, 9) for i in range(8)}, **{f"i{i}": (24, 16) for i in range(8)})
    index = load_index((str(tmp_path),))
    videos, images = [s.key for s in index.videos], [s.key for s in index.images]
    assert list(index.sample_keys()) == videos + images

    # What is known is told, and stays in the index: other samples keep their places.
    with caplog.at_level("INFO", "lavie"):
        [dataset] = load_datasets(of(tmp_path, [videos[1], videos[2], images[0]]), (str(tmp_path),))
    assert list(dataset.index.sample_keys()) == videos + images
    assert dataset.left_out == (f"{tmp_path}: 3 of 16 samples are left out by data.exclude, for spares",)
    assert dataset.left_out[0] in caplog.text

    with pytest.raises(ConfigError, match=r"data\.exclude has nobody, which no sample of data\.train"):
        load_datasets(of(tmp_path, [videos[1], "nobody"]), (str(tmp_path),))
    with pytest.raises(ConfigError, match=r"data\.exclude has a and 1 more, which"):
        load_datasets(of(tmp_path, ["b", "a"]), (str(tmp_path),))
    with pytest.raises(ConfigError, match=r"data\.exclude has 3 of the 8 images"):
        load_datasets(of(tmp_path, images[:3]), (str(tmp_path),))


def test_a_key_may_be_of_any_dataset_of_a_mixture_or_too_small(tmp_path):
    sizes = {f"v{i}": (24, 16, 9) for i in range(4)} | {f"i{i}": (24, 16) for i in range(4)}
    write_sized(tmp_path / "one", **sizes)
    write_sized(tmp_path / "two", **sizes, i4=(8, 8))
    first, second = (load_index((str(tmp_path / name),)) for name in ("one", "two"))
    small = second.images[4].key
    assert small not in first.sample_keys()

    # A key of the second dataset alone, and of a sample that min_size leaves out anyway: both are known.
    train = [{"path": str(tmp_path / name)} for name in ("one", "two")]
    data = of(tmp_path, [second.videos[0].key, small], train=train, min_size=9)
    sentences = [sentence for dataset in load_datasets(data, data.train) for sentence in dataset.left_out]
    assert f"{tmp_path}/two: 2 of 9 samples are left out by data.exclude, for spares" in sentences
