"""The held-out samples of a run: what its validation loss is taken of."""

import logging
from collections.abc import Sequence

from ...config.data import DataConfig, DatasetConfig
from .datasets import WeightedDataset, load_datasets

log = logging.getLogger("lavie")


def load_held_out(
    data: DataConfig, paths: Sequence[str | DatasetConfig]
) -> tuple[tuple[WeightedDataset, ...], DataConfig]:
    """Return the held-out datasets, and the section by which they are read.

    Where they have no images, rows of validation are clips alone, although those of training may have images.

    Args:
        data: `DataConfig.held_out`.
        paths: data.validation.

    Raises:
        DataError: they hold no clip for the run.
    """
    clips_alone = data.model_copy(update={"num_images": 0})
    datasets = load_datasets(clips_alone, paths)
    if not data.num_images or any(dataset.index.images for dataset in datasets):
        return datasets, data
    log.info("data: %s", "data.validation has no images: the validation loss is that of clips alone")
    return datasets, clips_alone


def held_out_text(data: DataConfig) -> str:
    """Return a line that says what the validation loss of a run is taken of. Raises DataError as the run would."""
    if not data.validation:
        return "validation: none (data.validation is empty)"
    datasets, section = load_held_out(data.held_out, data.validation)
    videos, images = (sum(len(getattr(d.index, kind)) for d in datasets) for kind in ("videos", "images"))
    alone = ", so the loss is that of clips alone" if section.num_images < data.num_images else ""
    left_out = "".join(f"; left out: {sentence}" for dataset in datasets for sentence in dataset.left_out)
    return f"validation: {videos:,} videos, {images:,} images{alone}{left_out}"
