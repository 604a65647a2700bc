"""Held-out sets without images serve a run that joins images to its clips, and the plan says so."""

import logging

import pytest

from lavie.config.data import DataConfig
from lavie.data.feed.loader import fixed_batches
from lavie.data.feed.share import Share
from lavie.data.order.held_out import held_out_text
from lavie.errors import DataError
from tests.data.order.sized import write_sized


@pytest.fixture
def data(tmp_path):
    write_sized(tmp_path / "clips", v1=(16, 16, 8), v2=(16, 16, 8))
    write_sized(tmp_path / "both", v1=(16, 16, 8), i1=(16, 16))
    write_sized(tmp_path / "images", i1=(16, 16))
    values = {"num_frames": 4, "num_images": 2, "height": 16, "width": 16, "fps": 8}
    return {
        name: DataConfig(train=str(tmp_path / "both"), validation=str(tmp_path / name), **values)
        for name in ("clips", "both", "images")
    }


@pytest.mark.parametrize("name, images", (("clips", 0), ("both", 2)))
def test_rows_of_validation_have_images_where_there_are_some(data, name, images, caplog):
    section = data[name].held_out
    with caplog.at_level(logging.INFO, "lavie"):
        (batch,) = fixed_batches(section, section.validation, Share(seed=0, train_batch_size=2), num_batches=1)
    assert batch["pixels"].shape == (2, 4 + images, 16, 16, 3)
    assert [len(captions) for captions in batch["captions"]] == [1 + images] * 2
    assert ("the validation loss is that of clips alone" in caplog.text) == (not images)


def test_the_plan_says_what_the_loss_is_taken_of(data):
    assert held_out_text(data["clips"]) == "validation: 2 videos, 0 images, so the loss is that of clips alone"
    assert held_out_text(data["both"]) == "validation: 1 videos, 1 images"
    assert held_out_text(DataConfig(train="x", fps=8)) == "validation: none (data.validation is empty)"
    with pytest.raises(DataError, match="no videos among 1 samples"):
        held_out_text(data["images"])
