"""Importing networks from elsewhere into exported folders: released files, and 2-D UNets as files and folders."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ...config.add_difference import AddDifferenceConfig
from ...config.load import read_yaml
from ...config.model import UNetConfig
from ...config.stages import STAGES, Stage, StageName
from ...config.train import SamplingConfig
from ...distributed import log
from ...errors import CheckpointError, ConfigError
from ...files import require_free
from ...models.add_difference import add_difference
from ...models.meta_encoders import meta_autoencoder, meta_text_model
from ...models.released import released_state
from ...models.single_file import is_single_file, read_text_model, read_unet, read_vae, require_unet
from ...models.start import require_averaged, require_single_file
from ...models.state_dict import StateDict, shapes
from ...models.torch_file import WeightFile, read_weight_file
from ...models.unet import VideoUNet
from ...models.weight_kinds import WIDTHS, require_flat, unet_sizes
from ...models.weights import (
    CONFIG_NAME,
    FLAT,
    inflate,
    load_official,
    read_config,
    read_folder,
    read_json,
    spatial_shapes,
)
from ...run_folder import NETWORK, RUN_CONFIG, checkpoints, is_export
from ..load import HERE
from ..settings import SETTINGS
from .described import Described, diffusers_config, read_described
from .export import About, export_stage, merged_name, read_stage, write_stage

ADVICE = "--stage and --config: a network of another size than the released one needs the folder of its run there"
FREQUENCIES = "rotary_emb.freqs"
"""The end of the names of rotary frequencies in a released file: constants, which are no parameters of ours."""
IMAGES = 4
"""Images that joined each clip in the released training."""
SEED = 0
"""Seed of the fresh temporal part of an inflated network."""


class Found(NamedTuple):
    """What lies at SRC."""

    network: VideoUNet
    kind: Literal["released", "inflated"]
    """The network of a released file, or of a 2-D UNet with a fresh temporal part."""
    constants: StateDict
    """The rotary frequencies of a released file; else empty."""
    file: WeightFile | None = None
    """The single file of Stable Diffusion that it was, if it was one."""
    averaged: bool = False
    """Whether the averaged weights of that file were taken."""


def import_stage(
    src: str | Path,
    out: str | Path,
    stage: StageName,
    *,
    pretrained: str | Path | None = None,
    config: str | Path | None = None,
    extract_ema: bool = False,
    added: AddDifferenceConfig | None = None,
    overwrite: bool = False,
) -> None:
    """Write the network that lies at `src` as the exported folder `out` of a stage.

    Args:
        src: a released LaVie .pt, kept bit for bit; a single file of Stable Diffusion, .safetensors or .ckpt, or a
            folder with a 2-D UNet in diffusers' format, whose temporal part starts fresh, as an exact identity; or an
            exported folder.
        out: the new folder.
        pretrained: a folder in diffusers' format with the autoencoder and the text encoder to copy; of a single file
            that has them, only their configs and the tokenizer are copied. Default: `src` where it has them, or none,
            and the result has to be completed before it can sample.
        config: what the network is, see `read_described`: the folder of its run or of its export, or a JSON file.
            Default: the released network of the stage, or what `src` says.
        extract_ema: whether the averaged weights of single files are taken.
        added: the difference of two networks that is added to the spatial layers; its `original` is `pretrained`
            unless it names one.
        overwrite: whether an exported folder that lies at `out` may be replaced.

    Raises:
        CheckpointError: `src` is something else, or does not fit.
        ConfigError: `out` is taken, or `config` makes no network.
    """
    # What needs no import: an exported folder is copied, a run is exported by another command.
    require_free(out, overwrite=overwrite, replaceable=is_export)
    src = Path(src)
    if added is not None and added.original is None:
        if pretrained is None:
            raise ConfigError("--add-difference needs --original, or --pretrained with a unet/: Stable Diffusion 1.4")
        added = added.model_copy(update={"original": str(pretrained)})
    if is_export(src):
        its = About.of(src).stage
        if its != stage or config is not None:
            raise CheckpointError(f"SRC {src} is an exported folder of stage {its}: give --stage {its}, no --config")
        if added is None:
            require_averaged(extract_ema, {str(src): False}, "--extract-ema is given")
            return export_stage(src, out, pretrained=pretrained, overwrite=overwrite)
        return _merged_export(src, out, added, extract_ema, pretrained, overwrite)
    if checkpoints(src):
        raise CheckpointError(f"SRC {src} is a run: `lavie export {src} OUT` writes its network")

    # The encoders are those that are asked for, else those of the run that --config describes, else those beside SRC.
    given = read_described(Path(config), stage) if config is not None else None
    if pretrained is None and given is not None:
        pretrained = given.encoders
    if added is not None:
        _require_files(added, given.model if given else STAGES[stage].network, extract_ema)
    found = _of_file(src, stage, given, extract_ema) if src.is_file() else _inflated(src, stage, given)
    _require_finite(found.network.state_dict(), str(src))
    if pretrained is None and (src / "vae").is_dir():
        pretrained = src

    # What is added to the network, and the encoders that a single file brings.
    about = About(
        stage=stage,
        weights=found.kind,
        step=None,
        parameters=sum(p.numel() for p in found.network.parameters()),
        source=src.name,
    )
    about = _merge(found.network, about, added, extract_ema, {str(src): found.averaged})
    values = _run_config(STAGES[stage], found.network.config, given)
    write_stage(
        out,
        values,
        found.network.state_dict(),
        about,
        pretrained=Path(pretrained) if pretrained is not None else None,
        constants=found.constants,
        overwrite=overwrite,
        encoders=_encoders(found.file, values, pretrained),
    )


def _merged_export(
    src: Path, out: str | Path, added: AddDifferenceConfig, extract_ema: bool, pretrained: Any, overwrite: bool
) -> None:
    """Write an exported folder once more, with a difference added to its network; arguments as above."""
    _require_files(added, read_config(src / NETWORK), extract_ema)
    network, constants = read_stage(src)
    about = _merge(network, About.of(src), added, extract_ema, {})
    values = read_yaml(src / RUN_CONFIG)
    if pretrained is None and (src / "vae").is_dir():
        pretrained = src
    home = Path(pretrained) if pretrained is not None else None
    write_stage(out, values, network.state_dict(), about, pretrained=home, constants=constants, overwrite=overwrite)


def _require_files(added: AddDifferenceConfig, model: UNetConfig, extract_ema: bool) -> None:
    """Raise CheckpointError if a file of a difference is something else, before a network is built."""
    for path in (added.weights, added.original):
        if path is not None and not Path(path).exists():
            raise CheckpointError(f"{path}: no such file or folder: give --add-difference and --original what is there")
        if path is not None:
            require_single_file(path, model, extract_ema)


def _merge(
    network: VideoUNet,
    about: About,
    added: AddDifferenceConfig | None,
    extract_ema: bool,
    files: Mapping[str, bool],
) -> About:
    """Add a difference to the network, if there is one, and return what the weights are then.

    Args:
        network: it is changed.
        about: what its weights are.
        added: the difference, with its `original`.
        extract_ema: whether averaged weights were asked for.
        files: whether averaged weights were taken of the network's file, by its path.
    """
    if added is None:
        require_averaged(extract_ema, files, "--extract-ema is given")
        return about
    assert added.original is not None  # import_stage has put it there
    report = add_difference(network, added.weights, added.original, added.scale, extract_ema=extract_ema)
    require_averaged(extract_ema, {**files, report.source: report.averaged}, "--extract-ema is given")
    log.info(str(report))
    if added.scale == 0:
        return about
    return about.model_copy(update={"weights": "merged", "source": merged_name(about.source, added, None)})


def _of_file(src: Path, stage: StageName, given: Described | None, extract_ema: bool) -> Found:
    """Return the network in a file: a released .pt, in its dtypes, or a single file of Stable Diffusion, inflated.

    Args:
        src: the file.
        given: what the network is, if it is not the released one.
        extract_ema: whether the averaged weights of a single file are taken.
    """
    file = read_weight_file(src)
    model = given.model if given else STAGES[stage].network
    if is_single_file(file):
        require_unet(file, model, extract_ema=extract_ema)  # before a network is built, which takes long
        with torch.device("meta"):
            wanted = spatial_shapes(VideoUNet(model))
        flat = read_unet(file, wanted, model, extract_ema=extract_ema)
        network = _fresh(STAGES[stage], model)
        inflate(network, flat.state, str(src))
        return Found(network, "inflated", {}, file, flat.averaged)
    state = released_state(file.content, src)
    if given is None:
        model = model.model_copy(update={"norm_statistics": "pooled"})
    network = load_official(stage, state, model, source=str(src), advice=ADVICE, as_stored=True)
    return Found(network, "released", {name: value for name, value in state.items() if name.endswith(FREQUENCIES)})


def _encoders(
    file: WeightFile | None, values: Mapping[str, Any], pretrained: str | Path | None
) -> dict[str, StateDict]:
    """Return the weights of the encoders that a single file brings, in float32, by their subfolders in an export.

    Args:
        file: the single file, if there is one.
        values: the config of the run that is written, which says whether there are encoders with weights.
        pretrained: the folder with their configs.
    """
    if file is None:
        return {}
    if pretrained is None:
        log.info(f"{file.path}: the UNet alone is taken: --pretrained, a folder of Stable Diffusion 1.4, adds encoders")
        return {}
    parts: dict[str, StateDict | None] = {}
    if values["autoencoder"]["type"] == "diffusers":
        stride = STAGES[values["stage"]].autoencoder_stride
        parts["vae"] = read_vae(file, meta_autoencoder(str(pretrained), stride, torch.float32))
    if values["text_encoder"]["type"] == "clip":
        width = values["model"]["cross_attention_dim"]
        parts["text_encoder"] = read_text_model(file, meta_text_model(str(pretrained), width))
    for part, state in parts.items():
        _require_finite(state or {}, f"{file.path}: {part}")
        log.info(f"{part}/: the weights are those of {file.path if state is not None else pretrained}")
    return {
        part: {name: value.float().contiguous() for name, value in state.items()}
        for part, state in parts.items()
        if state is not None
    }


def _require_finite(state: StateDict, source: str) -> None:
    """Raise CheckpointError for the first tensor that has NaN or infinities, which would spoil every sample."""
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{source}: {name} has values that are not finite: give another file")


def _inflated(src: Path, stage: StageName, given: Described | None) -> Found:
    """Return a network with the spatial weights of the 2-D UNet in `src`, or in its unet/.

    Args:
        given: what the network is, if the config beside the weights does not say it.
    """
    folder = src / NETWORK if (src / NETWORK).is_dir() else src
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"SRC {src}: wanted a released .pt file, a folder in diffusers' format or an exported folder, or a single "
            f"file of Stable Diffusion; found no {folder / CONFIG_NAME}"
        )
    values = read_json(folder / CONFIG_NAME)
    if values.get("_class_name") != FLAT:
        raise CheckpointError(f"{folder / CONFIG_NAME}: _class_name is {values.get('_class_name')!r}, wanted {FLAT}")
    model = given.model if given else diffusers_config(stage, values, str(folder / CONFIG_NAME))

    # A network of unknown width may be one of the user's own; one that is known is another network than the stage's.
    state = read_folder(folder)
    known = given is None and unet_sizes(shapes(state))[1] in WIDTHS
    require_flat(shapes(state), STAGES[stage].network if known else model, str(folder))
    network = _fresh(STAGES[stage], model)
    inflate(network, state, str(folder))
    return Found(network, "inflated", {})


def _fresh(stage: Stage, model: UNetConfig) -> VideoUNet:
    """Return a video network for the weights of a 2-D UNet, with channels for the condition of its stage."""
    if stage.condition == "key_frames":  # a 2-D UNet has no channels for them
        model = model.model_copy(update={"in_channels": 2 * model.out_channels})
    torch.manual_seed(SEED)
    return VideoUNet(model.model_copy(update={"norm_statistics": "separate"}))


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
