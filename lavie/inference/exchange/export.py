"""Exported folders: one stage of the cascade, whole and free of its run, in diffusers' layout; or a released .pt.

    README.md           model card
    config.yaml         what sampling needs of the run's config; no path leads out of the folder
    export.json         what the weights are: stage, step, averaged or raw, parameters, version; marks the folder
    unet/               config.json and diffusion_pytorch_model.safetensors
    scheduler/          scheduler_config.json, for diffusers
    vae/, text_encoder/, tokenizer/   where the run has them of diffusers and CLIP

A folder appears under its name by one rename, when all of it is written.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors.torch import load_file, save_file

from ... import __version__
from ...config.base import Strict
from ...config.load import read_yaml, validate
from ...config.stages import StageName
from ...config.train import TrainConfig
from ...diffusion.schedule import NoiseSchedule
from ...errors import CheckpointError, ConfigError
from ...files import replacing
from ...models.released import require_released_kind, to_released, write_released
from ...models.state_dict import StateDict, require_fit, shapes
from ...models.unet import VideoUNet
from ...models.weights import CONFIG_NAME, read_config, read_folder, read_json, save_network
from ...run_folder import EXPORT, MANIFEST, find_stage, is_export
from ..load import HERE, encoder_parts, encoders_folder
from ..schedulers import make_scheduler
from .model_card import model_card

CONSTANTS = "released_constants.safetensors"
"""In the unet/ of an imported network: the rotary frequencies of its file, which need not be ours in every bit."""
COPIED = (".json", ".txt", ".safetensors")
"""Files of autoencoder, text encoder and tokenizer. Others are weights once more, as pickles or for other libraries."""

Raw = Callable[[Path], StateDict]
"""Checkpoint folder -> weights that are not averaged."""


class About(Strict):
    """What an exported folder holds."""

    stage: StageName
    weights: Literal["ema", "raw", "released", "inflated"]
    """ema: averaged; inflated: a 2-D UNet with a fresh temporal part."""
    step: int | None
    """Training steps, where a run of ours made them."""
    parameters: int
    source: str
    """The name of the run, file or folder that it was made from."""
    lavie: str = __version__

    @classmethod
    def of(cls, folder: Path) -> "About":
        """What an exported folder or a checkpoint folder holds, the averaged weights where the run keeps them."""
        if is_export(folder):
            return validate(cls, read_json(folder / EXPORT), str(folder / EXPORT))
        config = validate(TrainConfig, read_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
        with torch.device("meta"):
            parameters = sum(p.numel() for p in VideoUNet(config.model).parameters())
        return cls(
            stage=config.stage,
            weights="ema" if config.use_ema else "raw",
            step=read_json(folder / MANIFEST).get("step"),
            parameters=parameters,
            source=Path(config.output_dir).name,
        )


def export_stage(
    run: str | Path,
    out: str | Path,
    *,
    raw: Raw | None = None,
    pretrained: str | Path | None = None,
    encoders: bool = True,
    overwrite: bool = False,
) -> None:
    """Write the stage of a run, a checkpoint or an exported folder into the exported folder `out`.

    Args:
        run: of a run, its newest checkpoint.
        raw: where weights come from in place of the averaged ones: training/consolidate.py's raw_weights.
        pretrained: where autoencoder and text encoder are, if not where the config says.
        encoders: whether they are copied. Without, they are read from where the config says.
        overwrite: whether an exported folder that lies at `out` may be replaced.

    Raises:
        CheckpointError: nothing to export, or a part that is missing or does not fit.
        ConfigError: `out` is taken.
    """
    require_free(Path(out), overwrite)
    folder = find_stage(run)
    values, about = read_yaml(folder / "config.yaml"), About.of(folder)
    config = validate(TrainConfig, values, str(folder / "config.yaml"))
    home = None
    if encoders and encoder_parts(config):
        home = Path(pretrained or str(encoders_folder(folder, config)))
    _, state, constants = _network(folder, raw)
    about = about.model_copy(update={"weights": "raw"}) if raw else about
    write_stage(out, values, state, about, pretrained=home, constants=constants, overwrite=overwrite)


def export_released(run: str | Path, out: str | Path, *, raw: Raw | None = None, overwrite: bool = False) -> None:
    """Write the network of a run, a checkpoint or an exported folder as a released .pt file.

    Args, Raises: as for `export_stage`; CheckpointError too if the network is none that released code can build.
    """
    folder, out = find_stage(run), Path(out)
    if out.is_dir() or out.is_file() and not overwrite:
        raise ConfigError(f"OUT {out} exists: give another file name, as lavie_base.pt" + _or_overwrite(out.is_file()))
    network, state, constants = _network(folder, raw)
    require_released_kind(About.of(folder).stage, network.config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        write_released(temporary, to_released(network, state, constants))


def _network(folder: Path, raw: Raw | None) -> tuple[VideoUNet, StateDict, StateDict]:
    """The network of a folder on the meta device, its weights (or the `raw` ones), and its file's constants if kept."""
    unet = folder / "unet"
    with torch.device("meta"):
        network = VideoUNet(read_config(unet))
    if raw and is_export(folder):
        raise ConfigError(f"--raw: RUN {folder} is an exported folder, which holds one set of weights: drop --raw")
    state = raw(folder) if raw else read_folder(unet)
    require_fit(state, shapes(network.state_dict()), str(unet), f"{unet / CONFIG_NAME}")
    return network, state, load_file(unet / CONSTANTS) if (unet / CONSTANTS).is_file() else {}


def write_stage(
    out: str | Path,
    values: Mapping[str, Any],
    state: StateDict,
    about: About,
    *,
    pretrained: Path | None,
    constants: StateDict,
    overwrite: bool,
) -> None:
    """Write an exported folder.

    Args:
        values: a run's config, as its config.yaml has it.
        state: the network's weights, by our names; all of them.
        pretrained: a folder in diffusers' format, from which autoencoder and text encoder are copied, if any.
        constants: see CONSTANTS.

    Raises: as for `export_stage`.
    """
    values = portable(values)
    if pretrained is not None:
        values["pretrained_model_name_or_path"] = HERE
    config = validate(TrainConfig, values, f"config of {about.source}")
    with _new_folder(Path(out), overwrite) as folder:
        for part in encoder_parts(config) if pretrained is not None else ():
            _copy_part(pretrained / part, folder / part)  # type: ignore[operator]
        if pretrained is not None:
            _check_encoders(pretrained, folder, config)
        save_network(folder / "unet", config.model, state)
        if constants:
            save_file({name: value.clone() for name, value in constants.items()}, folder / "unet" / CONSTANTS)
        scheduler = make_scheduler(config.sampling.scheduler, NoiseSchedule.from_config(config))
        scheduler.save_pretrained(folder / "scheduler")
        (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        (folder / EXPORT).write_text(json.dumps(about.model_dump(), indent=2) + "\n")
        sampling = values.get("sampling")
        (folder / "README.md").write_text(model_card(config, sampling, about.model_dump()), encoding="utf-8")


def portable(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without its places on disk, but for where the encoders are if it needs them."""
    result = dict(values) | {"output_dir": HERE, "init_weights": None, "resume_from_checkpoint": None}
    result["data"] = dict(values.get("data") or {}) | {"train": [], "validation": [], "cache": None}
    config = validate(TrainConfig, result, "config")
    if not encoder_parts(config):
        result["pretrained_model_name_or_path"] = None
    return result


def _copy_part(source: Path, target: Path) -> None:
    """Copy the files of a subfolder that loading reads, from `source` to the new folder `target`."""
    files = [
        file
        for file in (sorted(source.iterdir()) if source.is_dir() else [])
        # more dots in the name are another precision: diffusion_pytorch_model.fp16.safetensors
        if file.is_file() and file.suffix in COPIED and (file.suffix != ".safetensors" or file.name.count(".") == 1)
    ]
    if not files or source.name != "tokenizer" and not any(file.suffix == ".safetensors" for file in files):
        raise CheckpointError(
            f"{source}: wanted {source.name} in diffusers' format, with safetensors; give another --pretrained, or "
            "export with --no-encoders"
        )
    target.mkdir()
    for file in files:
        shutil.copyfile(file, target / file.name)


def _check_encoders(pretrained: Path, folder: Path, config: TrainConfig) -> None:
    """Raise CheckpointError if the encoders in `folder` are not of the kind that the stage works with."""
    parts = encoder_parts(config)
    if "vae" in parts:
        vae = read_json(folder / "vae" / "config.json")
        found = 2 ** (len(vae.get("block_out_channels") or ()) - 1), vae.get("latent_channels")
        if found != (config.latent_stride, config.latent_channels):
            raise CheckpointError(
                f"{pretrained}/vae maps {found[0]} pixels to a latent of {found[1]} channels, wanted "
                f"{config.latent_stride} and {config.latent_channels}: give --pretrained Stable Diffusion 1.4 for base "
                "and interpolation, its x4 upscaler for vsr"
            )
    if "text_encoder" in parts:
        width = read_json(folder / "text_encoder" / "config.json").get("hidden_size")
        if width != config.model.cross_attention_dim:
            raise CheckpointError(
                f"{pretrained}/text_encoder gives {width} features, the network reads "
                f"{config.model.cross_attention_dim}: give another --pretrained"
            )


@contextmanager
def _new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its place when the block ends well and vanishes when it does not."""
    require_free(out, overwrite)
    out = out.resolve()  # a link stays, and what it leads to is replaced
    fresh, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if out.exists():
            out.rename(old)
        os.replace(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def require_free(out: Path, overwrite: bool) -> None:
    """Raise ConfigError if a folder at `out` may not be written."""
    taken = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if taken and not (overwrite and is_export(out)):
        raise ConfigError(f"OUT {out} exists: give a new folder" + _or_overwrite(is_export(out)))


def _or_overwrite(possible: bool) -> str:
    return ", or --overwrite" if possible else ""
