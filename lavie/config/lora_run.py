"""The config of a run of adapters on a base: the preset lora.yaml, with all that the base decides taken from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .load import read_yaml
from .overrides import merge, parse_overrides
from .shipped import find_config
from .train import TrainConfig

PRESET = "lora.yaml"
OF_BASE = (
    *("stage", "model", "autoencoder", "text_encoder", "sampling", "mixed_precision"),
    *("prediction_type", "rescale_betas_zero_snr", "condition", "given", "condition_noise_steps"),
)
"""Keys of which the weights of a base ask for the values that they were trained with."""
DATA_OF_BASE = ("num_frames", "height", "width", "fps", "frame_stride")
"""Keys of `data` that say what the base's clips are."""


def lora_run(
    base: str | Path,
    out: str | Path,
    *,
    of_base: TrainConfig | None,
    pretrained: str | None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the values of a run of adapters, without its data.

    Args:
        base: what init_weights is to be.
        out: the output_dir.
        of_base: the config of the base; None for weights that have none, for which the preset's values stay.
        pretrained: the folder of the frozen encoders; None where they have no weights.
        overrides: key=value, over all others.

    Raises:
        ConfigError: an override cannot be read.
    """
    values = read_yaml(find_config(PRESET))
    if of_base is not None:
        known = of_base.model_dump(mode="json")
        values |= {key: known[key] for key in OF_BASE}
        values["data"] |= {key: known["data"][key] for key in DATA_OF_BASE}
        values["pretrained_model_name_or_path"] = pretrained
    values |= {"init_weights": str(base), "output_dir": str(out)}
    return merge(values, parse_overrides(overrides, TrainConfig))


def train_on(values: dict[str, Any], datasets: Sequence[dict[str, Any]], *, videos: bool, images: bool) -> None:
    """Set the datasets of a run, and rows that suit what they hold.

    Args:
        values: of the run; changed in place.
        datasets: entries of data.train.
        videos: whether the first of them holds videos.
        images: whether it holds images.
    """
    data = values["data"]
    data["train"] = list(datasets)
    data["images_alone"] = images and not videos
    if not images:
        data["num_images"] = 0
