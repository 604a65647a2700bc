"""Networks from elsewhere become exported folders: LaVie's released files, and 2-D UNets in diffusers' format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config.model import UNetConfig
from ...config.stages import STAGES, StageName
from ...config.train import SamplingConfig
from ...errors import CheckpointError
from ...models.released import from_released, read_released, unet_config
from ...models.state_dict import StateDict
from ...models.unet import VideoUNet
from ...models.weights import CONFIG_NAME, inflate, read_folder, read_json
from ...run_folder import checkpoints, is_export
from ..load import HERE
from ..settings import CascadeSettings
from .export import About, export_stage, require_free, write_stage

FLAT = "UNet2DConditionModel"
ADVICE = "--stage and --config"
CLIPS: dict[str, dict[str, Any]] = {
    "base": dict(num_frames=16, height=320, width=512, fps=8),
    "interpolation": dict(num_frames=61, height=320, width=512, fps=24),
    "vsr": dict(num_frames=8, height=1280, width=2048, fps=24),
}
"""What the released networks sample at once (paper, section 4)."""
SEED = 0
"""Of the fresh temporal part of an inflated network."""


def import_stage(
    src: str | Path,
    out: str | Path,
    stage: StageName,
    *,
    pretrained: str | Path | None = None,
    config: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write what lies at `src` as the exported folder `out` of a stage.

    Args:
        src: a released LaVie .pt, kept bit for bit; a folder with a 2-D UNet in diffusers' format, whose temporal part
            starts fresh, as an exact identity; or an exported folder.
        pretrained: a folder in diffusers' format with the autoencoder and the text encoder to copy. Default: `src`
            where it has them, or none, and the result has to be completed before it can sample.
        config: a JSON file with the config of the network in diffusers' style; default: that of the released network
            of the stage, or the one in `src`.

    Raises:
        CheckpointError: `src` is something else, or does not fit.
        ConfigError: `out` is taken, or `config` makes no network.
    """
    require_free(Path(out), overwrite)
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
    given = read_json(Path(config)) if config is not None else None
    constants: StateDict = {}
    if src.is_file():
        model = STAGES[stage].network.model_copy(update={"norm_statistics": "pooled"})
        if given is not None:
            model = _config(stage, given, str(config))
        with torch.device("meta"):
            network = VideoUNet(model)
        state, constants = from_released(network, read_released(src), str(src), ADVICE)
    else:
        network, state = _inflated(src, stage, given, str(config))
        model = network.config
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
        _run_config(stage, model),
        state,
        about,
        pretrained=Path(pretrained) if pretrained is not None else None,
        constants=constants,
        overwrite=overwrite,
    )


def _inflated(
    src: Path, stage: StageName, given: Mapping[str, Any] | None, source: str
) -> tuple[VideoUNet, dict[str, Tensor]]:
    """A network with the spatial weights of the 2-D UNet in `src`, or in its unet/."""
    folder = src / "unet" if (src / "unet").is_dir() else src
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"SRC {src}: wanted a released .pt file, a folder in diffusers' format or an exported folder; found no "
            f"{folder / CONFIG_NAME}"
        )
    values = read_json(folder / CONFIG_NAME)
    if values.get("_class_name") != FLAT:
        raise CheckpointError(f"{folder / CONFIG_NAME}: _class_name is {values.get('_class_name')!r}, wanted {FLAT}")
    if given is None:
        given, source = values, str(folder / CONFIG_NAME)
    model = _config(stage, given, source)
    if stage == "interpolation":  # as many condition channels as latents
        model = model.model_copy(update={"in_channels": 2 * model.out_channels})
    torch.manual_seed(SEED)
    network = VideoUNet(model.model_copy(update={"norm_statistics": "separate"}))
    inflate(network, read_folder(folder), str(folder))
    return network, network.state_dict()


def _config(stage: StageName, values: Mapping[str, Any], source: str) -> UNetConfig:
    """`unet_config`, where the highest noise level is that of the released network unless it is given."""
    levels = values.get("num_class_embeds") or 0
    if levels and values.get("max_noise_level") is None and STAGES[stage].network.max_noise_level is not None:
        values = {**values, "max_noise_level": min(STAGES[stage].network.max_noise_level or 0, levels - 1)}
    return unet_config(stage, values, source)


def _run_config(stage: StageName, model: UNetConfig) -> dict[str, Any]:
    """The config of a run that such a network could come from: the released sizes and settings."""
    released = getattr(CascadeSettings(), stage).model_dump(mode="json", include=set(SamplingConfig.model_fields))
    if stage == "vsr":
        highest = model.num_noise_levels - 1 if model.max_noise_level is None else model.max_noise_level
        released["noise_level"] = min(released["noise_level"], highest)
    return dict(
        stage=stage,
        output_dir=HERE,
        model=model.model_dump(mode="json"),
        autoencoder=dict(type="diffusers"),
        text_encoder=dict(type="clip"),
        data=CLIPS[stage] | dict(train=[], num_images=4 if stage == "base" else 0),
        sampling=released,
        pretrained_model_name_or_path=HERE,
        prediction_type="v_prediction" if stage == "vsr" else "epsilon",
        max_train_steps=1,
    )
