"""Importing networks from elsewhere into exported folders: LaVie's released files, 2-D UNets in diffusers' format."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config.model import UNetConfig
from ...config.stages import STAGES, Stage, StageName
from ...config.train import SamplingConfig
from ...errors import CheckpointError
from ...files import require_free
from ...models.released import read_released
from ...models.state_dict import StateDict
from ...models.unet import VideoUNet
from ...models.weights import CONFIG_NAME, load_official, load_stable_diffusion, read_folder, read_json
from ...run_folder import NETWORK, checkpoints, is_export
from ..load import HERE
from ..settings import SETTINGS
from .described import Described, diffusers_config, read_described
from .export import About, export_stage, write_stage

FLAT = "UNet2DConditionModel"
"""The class that diffusers gives in the config of a 2-D UNet."""
ADVICE = "--stage and --config: a network of another size than the released one needs the folder of its run there"
FREQUENCIES = "rotary_emb.freqs"
"""The end of the names of rotary frequencies in a released file: constants, which are no parameters of ours."""
IMAGES = 4
"""Images that joined each clip in the released training."""
SEED = 0
"""Seed of the fresh temporal part of an inflated network."""


def import_stage(
    src: str | Path,
    out: str | Path,
    stage: StageName,
    *,
    pretrained: str | Path | None = None,
    config: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write the network that lies at `src` as the exported folder `out` of a stage.

    Args:
        src: a released LaVie .pt, kept bit for bit; a folder with a 2-D UNet in diffusers' format, whose temporal part
            starts fresh, as an exact identity; or an exported folder.
        out: the new folder.
        pretrained: a folder in diffusers' format with the autoencoder and the text encoder to copy. Default: `src`
            where it has them, or none, and the result has to be completed before it can sample.
        config: what the network is, see `read_described`: the folder of its run or of its export, or a JSON file.
            Default: the released network of the stage, or what `src` says.
        overwrite: whether an exported folder that lies at `out` may be replaced.

    Raises:
        CheckpointError: `src` is something else, or does not fit.
        ConfigError: `out` is taken, or `config` makes no network.
    """
    # What needs no import: an exported folder is copied, a run is exported by another command.
    require_free(out, overwrite=overwrite, replaceable=is_export)
    src = Path(src)
    if is_export(src):
        found = About.of(src).stage
        if found != stage or config is not None:
            raise CheckpointError(
                f"SRC {src} is an exported folder of stage {found}: give --stage {found}, no --config"
            )
        return export_stage(src, out, pretrained=pretrained, overwrite=overwrite)
    if checkpoints(src):
        raise CheckpointError(f"SRC {src} is a run: `lavie export {src} OUT` writes its network")

    # The encoders are those that are asked for, else those of the run that --config describes, else those beside SRC.
    given = read_described(Path(config), stage) if config is not None else None
    if pretrained is None and given is not None:
        pretrained = given.encoders
    constants: StateDict = {}
    if src.is_file():
        network, constants = _released(src, stage, given)
    else:
        network = _inflated(src, stage, given)
        if pretrained is None and (src / "vae").is_dir():
            pretrained = src

    about = About(
        stage=stage,
        weights="released" if src.is_file() else "inflated",
        step=None,
        parameters=sum(p.numel() for p in network.parameters()),
        source=src.name,
    )
    write_stage(
        out,
        _run_config(STAGES[stage], network.config, given),
        network.state_dict(),
        about,
        pretrained=Path(pretrained) if pretrained is not None else None,
        constants=constants,
        overwrite=overwrite,
    )


def _released(src: Path, stage: StageName, given: Described | None) -> tuple[VideoUNet, dict[str, Tensor]]:
    """Return the network in a released .pt file, in the file's dtypes, and the file's rotary frequencies.

    Args:
        given: what the network is, if it is not the released one.
    """
    model = given.model if given else STAGES[stage].network.model_copy(update={"norm_statistics": "pooled"})
    state = read_released(src)
    network = load_official(stage, state, model, source=str(src), advice=ADVICE, as_stored=True)
    return network, {name: value for name, value in state.items() if name.endswith(FREQUENCIES)}


def _inflated(src: Path, stage: StageName, given: Described | None) -> VideoUNet:
    """Return a network with the spatial weights of the 2-D UNet in `src`, or in its unet/.

    Args:
        given: what the network is, if the config beside the weights does not say it.
    """
    folder = src / NETWORK if (src / NETWORK).is_dir() else src
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"SRC {src}: wanted a released .pt file, a folder in diffusers' format or an exported folder; found no "
            f"{folder / CONFIG_NAME}"
        )
    values = read_json(folder / CONFIG_NAME)
    if values.get("_class_name") != FLAT:
        raise CheckpointError(f"{folder / CONFIG_NAME}: _class_name is {values.get('_class_name')!r}, wanted {FLAT}")
    model = given.model if given else diffusers_config(stage, values, str(folder / CONFIG_NAME))
    if STAGES[stage].condition == "key_frames":  # a 2-D UNet has no channels for them
        model = model.model_copy(update={"in_channels": 2 * model.out_channels})
    torch.manual_seed(SEED)
    model = model.model_copy(update={"norm_statistics": "separate"})
    return load_stable_diffusion(read_folder(folder), model, source=str(folder))


def _run_config(stage: Stage, model: UNetConfig, given: Described | None) -> dict[str, Any]:
    """Return the config of the run that the network comes from; if it is not known, the released sizes and settings."""
    if given is not None and given.run is not None:
        return given.run | {"model": model.model_dump(mode="json")}
    sampling = SETTINGS[stage.name]().model_dump(mode="json", include=set(SamplingConfig.model_fields))
    if "noise_level" in sampling:
        sampling["noise_level"] = min(sampling["noise_level"], model.highest_noise_level)
    return {
        "stage": stage.name,
        "output_dir": HERE,
        "model": model.model_dump(mode="json"),
        "autoencoder": {"type": "diffusers"},
        "text_encoder": {"type": "clip"},
        "data": asdict(stage.released_clip) | {"train": [], "num_images": IMAGES if stage.joins_images else 0},
        "sampling": sampling,
        "pretrained_model_name_or_path": HERE,
        "prediction_type": stage.prediction_type,
        "max_train_steps": 1,
    }
