"""What the --config of `lavie import` says of a network whose file says nothing: a released .pt holds tensors alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.load import read_yaml, validate
from ...config.model import UNetConfig
from ...config.stages import STAGES, StageName
from ...config.train import TrainConfig
from ...errors import CheckpointError
from ...models.released import unet_config
from ...models.unet import VideoUNet
from ...models.weights import CONFIG_NAME, read_json
from ...run_folder import NETWORK, RUN_CONFIG, find_stage
from ..load import HERE, encoder_parts


@dataclass(frozen=True)
class Described:
    """A network to import, and the run that it comes from where that is known."""

    model: UNetConfig
    """The network."""
    run: dict[str, Any] | None = None
    """The config of the run that trained it, as its config.yaml has it."""
    encoders: Path | None = None
    """A folder with the run's autoencoder and text encoder, where there is one."""


def read_described(config: Path, stage: StageName) -> Described:
    """Return what one of these says of a network:

    1. the folder of a run, a checkpoint or an export, its config.yaml or its unet/config.json, or the YAML file of a
       run: the whole run, with the size of its clips, its encoders and how it samples;
    2. a JSON file as `unet/config.json` of an export is: the network alone;
    3. a JSON file in diffusers' style: the network alone, with statistics of norms as the released ones have them.

    Raises:
        CheckpointError: it is none of these, or of another stage.
        ConfigError: its values make no network.
    """
    # A network's config that lies in the folder of its run leads to the run.
    if config.name == CONFIG_NAME and config.parent.name == NETWORK and (config.parents[1] / RUN_CONFIG).is_file():
        config = config.parents[1] / RUN_CONFIG
    if config.is_dir():
        config = find_stage(config) / RUN_CONFIG
    if config.suffix in (".yaml", ".yml"):
        return _of_run(config, stage)

    values = read_json(config)
    if values.get("_class_name") == VideoUNet.__name__:
        names = {name: value for name, value in values.items() if name != "_class_name"}
        return Described(validate(UNetConfig, names, str(config)))
    return Described(diffusers_config(stage, values, str(config)))


def _of_run(file: Path, stage: StageName) -> Described:
    """Return the network of a run's config, and where the run's encoders lie."""
    values = read_yaml(file)
    config = validate(TrainConfig, values, str(file))
    if config.stage != stage:
        raise CheckpointError(f"--config {file} is of stage {config.stage}: give --stage {config.stage}")
    named = config.pretrained_model_name_or_path
    home = file.parent if named == HERE else Path(named or HERE)
    parts = encoder_parts(config)
    return Described(config.model, values, home if parts and all((home / part).is_dir() for part in parts) else None)


def diffusers_config(stage: StageName, values: Mapping[str, Any], source: str) -> UNetConfig:
    """Return the network of a config in diffusers' style; see `unet_config`.

    Its highest noise level is the released network's unless it is given.
    """
    levels = values.get("num_class_embeds") or 0
    highest = STAGES[stage].network.max_noise_level
    if levels and values.get("max_noise_level") is None and highest is not None:
        values = {**values, "max_noise_level": min(highest, levels - 1)}
    return unet_config(stage, values, source)
