"""The config of a run of adapters on a base: the preset lora.yaml, with all that the base decides taken from it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, DataError
from ..files import write_if_new
from ..json_text import parse_json
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
SET_BY_COMMAND = {
    "output_dir": "give --out",
    "init_weights": "give --base",
    "trainable": "it trains adapters alone, `lavie train` the rest",
    "resume_from_checkpoint": "it goes on with the run in --out",
    "data.train": "give FOLDER",
    "data.images_alone": "what FOLDER holds decides it",
}
"""Keys that the command decides, and what to give in their place."""
MADE_OF = "data.json"
"""The file of a run's folder that says what the data beside it were made of."""


class Origin(NamedTuple):
    """What the data of a run of adapters were made of; the last three are None where the network drew none of them."""

    folder: str
    base: str
    prior: list[str] | None
    prior_samples: int | None
    seed: int | None


FLAGS = ("FOLDER", "--base", "--prior", "--prior-samples", "seed")
"""What a user gives for each field of an Origin."""


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


def require_not_set(overrides: Sequence[str]) -> None:
    """Raise ConfigError if key=value names a key that the command itself decides."""
    tree = parse_overrides(overrides, TrainConfig)
    for key, instead in SET_BY_COMMAND.items():
        if _is_given(tree, key):
            raise ConfigError(f"{key} is no key to give here, `lavie lora train` sets it: {instead}, and drop {key}")


def require_images(overrides: Sequence[str], folder: str | Path) -> None:
    """Raise ConfigError if key=value asks for images in rows, which a folder of clips alone does not have."""
    tree = parse_overrides(overrides, TrainConfig)
    if _is_given(tree, "data.num_images") and tree["data"]["num_images"]:
        got = tree["data"]["num_images"]
        raise ConfigError(f"data.num_images is {got}, and FOLDER {folder} holds clips alone: drop it, or add images")


def _is_given(tree: Mapping[str, Any], key: str) -> bool:
    """Return whether parsed overrides hold a value for a key, by its own name or in a section that is given whole."""
    node: Any = tree
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
    return True


def require_apart(folder: str | Path, base: str | Path, out: str | Path) -> None:
    """Check that a run writes neither among its own images, nor into the network that it starts from.

    Args:
        folder: of the images.
        base: the network.
        out: the output_dir.

    Raises:
        DataError: there is no such folder.
        ConfigError: one lies in another.
    """
    if not Path(folder).exists():
        raise DataError(f"FOLDER {folder}: no such file or folder")
    images, network, run = (Path(path).resolve() for path in (folder, base, out))
    if run.is_relative_to(images):
        raise ConfigError(f"--out {out} is FOLDER {folder}, or in it: samples would be images: give another --out")
    if images.is_relative_to(run):
        raise ConfigError(f"FOLDER {folder} is in --out {out}, whose files are the run's: give another --out")
    if run.is_relative_to(network):
        raise ConfigError(f"--out {out} is --base {base}, or in it: the run would mix with it: give another --out")


def require_same_origin(out: str | Path, origin: Origin) -> None:
    """Raise ConfigError if a run's folder holds data that were made of something else; see `write_origin`."""
    out = Path(out)
    try:
        known = parse_json((out / MADE_OF).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{out / MADE_OF} cannot be read ({error}): give another --out") from None
    # A call that found nothing to pack has left nothing that could be mixed.
    if not any((out / "data").rglob("*.tar")) and not (out / "data" / "prior-samples").exists():
        return
    known = known if isinstance(known, dict) else {}
    for key, flag, now in zip(Origin._fields, FLAGS, origin, strict=True):
        was = known.get(key)
        if was != now:
            raise ConfigError(
                f"--out {out} has data of {flag} {_shown(was)}, this call has {flag} {_shown(now)}: give another "
                f"--out, or {flag} as it was"
            )


def write_origin(out: str | Path, origin: Origin) -> None:
    """Write down what a run's data are made of, before they are, so that a call that is cut short has told it."""
    Path(out).mkdir(parents=True, exist_ok=True)
    write_if_new(Path(out) / MADE_OF, json.dumps(origin._asdict(), indent=2) + "\n")


def _shown(value: Any) -> str:
    """Return a value of an origin in words."""
    if value is None:
        return "none"
    return ", ".join(map(repr, value)) if isinstance(value, list) else str(value)
