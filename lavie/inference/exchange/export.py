"""Exporting a stage of the cascade: as a folder laid out as diffusers' are, whole and free of its run, or as a .pt.

    README.md           model card
    model_index.json, lavie_pipeline.py, unet/lavie_unet.py   the code by which diffusers runs the folder without this
                        project, where the folder holds all that sampling needs
    config.yaml         what sampling needs of the run's config; no path leads out of the folder
    export.json         what the weights are: stage, step, averaged or raw, parameters, version; marks the folder
    preview.json        the colours of the autoencoder's latents, where the autoencoder is at hand
    unet/               config.json, of our own keys, and diffusion_pytorch_model.safetensors
    scheduler/          scheduler_config.json, which diffusers opens
    vae/, text_encoder/, tokenizer/   of a run whose autoencoder is diffusers' and whose text encoder is CLIP: those
                        libraries open them

No class of diffusers builds the network of unet/: it runs the folder's own code, if it is told to trust it. A folder
appears under its name by one rename, when all of it is written.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from ... import __version__
from ...config.add_difference import AddDifferenceConfig
from ...config.base import Strict
from ...config.load import load_config, read_yaml, validate
from ...config.stages import StageName
from ...config.train import TrainConfig
from ...diffusion.schedule import NoiseSchedule
from ...errors import CheckpointError, ConfigError
from ...files import apply_umask, replacing, require_free
from ...manifest import require_whole_network
from ...models.autoencoder import build_autoencoder
from ...models.lora.attach import load_lora, load_text_lora, merge_lora
from ...models.lora.choice import LoraChoice, read_choices
from ...models.lora.read import LoraFile
from ...models.lora.trained import has_adapters, load_adapted
from ...models.released import require_released_kind, write_released
from ...models.state_dict import StateDict, require_fit, shapes
from ...models.text_encoder import ClipTextEncoder, build_text_encoder
from ...models.torch_file import require_finite
from ...models.unet import VideoUNet
from ...models.weights import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    read_config,
    read_folder,
    read_json,
    save_network,
    save_tensors,
    to_official,
)
from ...run_folder import EXPORT, MANIFEST, NETWORK, RUN_CONFIG, find_stage, is_export
from ..load import HERE, encoder_parts, encoders_folder
from ..preview import PREVIEW, fit_preview
from ..schedulers import make_scheduler
from .model_card import model_card
from .portable.files import write_code

CONSTANTS = "released_constants.safetensors"
"""File in the unet/ of an imported network: the rotary frequencies of its source, which may differ in last bits."""
ENCODER_WEIGHTS = {"vae": WEIGHTS_NAME, "text_encoder": "model.safetensors"}
"""The files in which diffusers and transformers keep the weights of the encoders."""
COPIED = (".json", ".txt", ".safetensors")
"""Endings of the files of autoencoder, text encoder and tokenizer that are copied.

Others are the same weights once more, as pickles or for other libraries.
"""

Raw = Callable[[Path], StateDict]
"""Reads the weights of a checkpoint folder that are not averaged, by our names."""


class About(Strict):
    """What an exported folder holds: the content of its export.json."""

    stage: StageName
    weights: Literal["ema", "raw", "released", "inflated", "merged"]
    """ema: averaged over a run; raw: of a run's last step; released: of a released file; inflated: of a 2-D UNet with
    a fresh temporal part; merged: of a network and the difference of two others."""
    step: int | None
    """Training steps, where a run of ours made the weights."""
    parameters: int
    """Number of the network's parameters."""
    source: str
    """The name of the run, file or folder that it was made from."""
    started_from: str | None = None
    """The name of the weights that the run started from; None where no run of ours made the weights, or a fresh one."""
    data: tuple[str, ...] = ()
    """The names of the datasets that the run was trained on."""
    loras: tuple[str, ...] = ()
    """The LoRAs that were merged into the weights, each as FILE:SCALE:TEXT_SCALE."""
    lavie: str = __version__
    """The version that wrote the folder."""

    @classmethod
    def of(cls, folder: Path) -> "About":
        """Describe an exported folder, by its export.json, or a checkpoint folder, by its config. Reads no weights.

        A checkpoint of a run that keeps an average is described by its averaged weights, "ema"; any other by "raw".
        """
        if is_export(folder):
            return validate(cls, read_json(folder / EXPORT), str(folder / EXPORT))
        config = validate(TrainConfig, read_yaml(folder / RUN_CONFIG), str(folder / RUN_CONFIG))
        with torch.device("meta"):
            parameters = sum(p.numel() for p in VideoUNet(config.model).parameters())
        return cls(
            stage=config.stage,
            weights="ema" if config.use_ema else "raw",
            step=read_json(folder / MANIFEST).get("step"),
            parameters=parameters,
            source=_short_name(config.output_dir),
            started_from=_started_from(config),
            data=tuple(_short_name(e) if isinstance(e, str) else e.name for e in config.data.train),
        )


def _started_from(config: TrainConfig) -> str | None:
    """Return the names of the weights that a run started from, None for a fresh network."""
    source = _short_name(config.init_weights or config.pretrained_model_name_or_path or "")
    if config.add_difference is None:
        return source or None
    return merged_name(source, config.add_difference, config.pretrained_model_name_or_path)


def merged_name(source: str, added: AddDifferenceConfig, pretrained: str | None) -> str:
    """Return what a card calls weights and the difference that is added to them; their licences bind the result.

    Args:
        source: the weights' name.
        added: the difference.
        pretrained: what its `original` is where it names none.
    """
    return (
        f"{source} + {added.scale:g} ({_short_name(added.weights)} - {_short_name(added.original or pretrained or '')})"
    )


def _short_name(path: str) -> str:
    """Return what a card calls a path: the last two parts of a relative one, the last of any other.

    What lies above says more about the machine than about the weights.
    """
    parts = [part for part in path.rstrip("/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts[-1:] if path.startswith("/") or ":" in path else parts[-2:])


def export_stage(
    run: str | Path,
    out: str | Path,
    *,
    raw: Raw | None = None,
    pretrained: str | Path | None = None,
    encoders: bool = True,
    overwrite: bool = False,
    loras: Sequence[LoraChoice] = (),
) -> None:
    """Write the stage of a run, a checkpoint or an exported folder into the exported folder `out`.

    Args:
        run: a run's folder stands for its newest checkpoint.
        out: the new folder.
        raw: reads the weights in place of the averaged ones: training/consolidate.py's raw_weights.
        pretrained: the folder of autoencoder and text encoder, if not the config's.
        encoders: whether these two are copied. Otherwise the export reads them from the folder that the config names.
        overwrite: whether an exported folder that lies at `out` may be replaced.
        loras: merged into the network and the text encoder of the new folder.

    Raises:
        CheckpointError: nothing to export, or a part or a LoRA that is missing or does not fit.
        ConfigError: `out` is taken, or a LoRA changes a text encoder that is not copied.
    """
    require_free(out, overwrite=overwrite, replaceable=is_export)
    folder = find_stage(run)
    values, about = read_yaml(folder / RUN_CONFIG), About.of(folder)
    config = validate(TrainConfig, values, str(folder / RUN_CONFIG))
    home = None
    if encoders and encoder_parts(config):
        home = Path(pretrained or str(encoders_folder(folder, config)))
    files = read_choices(loras, config.model)
    _require_text(files, config, home)
    network, constants = read_stage(folder, raw)
    about = about.model_copy(update={"weights": "raw"}) if raw else about
    if files:
        about = about.model_copy(update={"loras": (*about.loras, *(_named(choice) for choice in loras))})
        for choice, file in files:
            load_lora(network, file, choice.scale)
        merge_lora(network)
    write_stage(
        out,
        values,
        network.state_dict(),
        about,
        pretrained=home,
        constants=constants,
        overwrite=overwrite,
        loras=files,
    )


def _named(choice: LoraChoice) -> str:
    """Return what an export calls a LoRA: its name, without the path, and its scales."""
    return f"{choice.path.name}:{choice.scale:g}:{choice.text_scale:g}"


def _require_text(files: Sequence[tuple[LoraChoice, LoraFile]], config: TrainConfig, home: Path | None) -> None:
    """Raise ConfigError if a LoRA would change a text encoder that the export does not hold."""
    for choice, file in files:
        if file.text and choice.text_scale and (home is None or config.text_encoder.type != "clip"):
            reason = "has no weights" if config.text_encoder.type != "clip" else "is not copied"
            raise ConfigError(
                f"--lora {choice.path} changes {len(file.text)} weights of the text encoder, which {reason}: give it "
                f"as {choice.path}:{choice.scale:g}:0 to leave them out"
            )


def _merge_text(folder: Path, config: TrainConfig, files: Sequence[tuple[LoraChoice, LoraFile]]) -> None:
    """Merge the text parts of LoRAs into the text encoder in the folder of an export."""
    files = [(choice, file) for choice, file in files if file.text and choice.text_scale]
    if not files:
        return
    encoder = build_text_encoder(config.text_encoder, config.model.cross_attention_dim, str(folder))
    assert isinstance(encoder, ClipTextEncoder)
    for choice, file in files:
        load_text_lora(encoder, file, choice.text_scale)
    merge_lora(encoder.model)
    encoder.model.save_pretrained(folder / "text_encoder")
    for path in (folder / "text_encoder").iterdir():
        apply_umask(path)


def export_released(run: str | Path, out: str | Path, *, raw: Raw | None = None, overwrite: bool = False) -> None:
    """Write the network of a run, a checkpoint or an exported folder as a released .pt file.

    Args:
        run, raw: as for `export_stage`.
        out: the new file.
        overwrite: whether a file that lies at `out` may be replaced.

    Raises:
        CheckpointError: nothing to export, or a network that released code cannot build.
        ConfigError: `out` is taken.
    """
    folder, out = find_stage(run), Path(out)
    if out.is_dir():
        raise ConfigError(f"OUT {out} is a folder: give a file name, as lavie_base.pt")
    require_free(out, overwrite=overwrite, replaceable=Path.is_file)
    network, constants = read_stage(folder, raw)
    stage = About.of(folder).stage
    require_released_kind(stage, network.config)
    computed = {name: value for name, value in to_official(stage, network).items() if name not in constants}
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        write_released(temporary, computed | constants)


def read_stage(folder: Path, raw: Raw | None = None) -> tuple[VideoUNet, dict[str, Tensor]]:
    """Return the network of a folder in the dtypes of its file, and the released constants that the folder keeps.

    Args:
        folder: a checkpoint folder or an exported folder.
        raw: reads the weights in place of the averaged ones.
    """
    unet = folder / NETWORK
    if has_adapters(folder) and raw is None:
        return load_adapted(folder, load_config(folder / RUN_CONFIG)), {}
    model = load_config(folder / RUN_CONFIG).model if has_adapters(folder) else read_config(unet)
    with torch.device("meta"):
        network = VideoUNet(model)
    if raw and is_export(folder):
        raise ConfigError(f"--raw: RUN {folder} is an exported folder, which holds one set of weights: drop --raw")
    require_whole_network(folder)
    state = raw(folder) if raw else read_folder(unet)
    require_fit(state, shapes(network.state_dict()), str(unet), f"{unet / CONFIG_NAME}")
    network.load_state_dict(state, assign=True)
    return network, load_file(unet / CONSTANTS) if (unet / CONSTANTS).is_file() else {}


def write_stage(
    out: str | Path,
    values: Mapping[str, Any],
    state: StateDict,
    about: About,
    *,
    pretrained: Path | None,
    constants: StateDict,
    overwrite: bool,
    encoders: Mapping[str, StateDict] | None = None,
    loras: Sequence[tuple[LoraChoice, LoraFile]] = (),
) -> None:
    """Write an exported folder.

    Args:
        out: the new folder.
        values: a run's config, as its config.yaml has it.
        state: all of the network's weights, by our names.
        about: what the weights are.
        pretrained: a folder in diffusers' format, from which autoencoder and text encoder are copied, if any.
        constants: the content of the file CONSTANTS; without any, there is no such file.
        overwrite: whether an exported folder that lies at `out` may be replaced.
        encoders: weights by the subfolder, vae or text_encoder, that take the place of those in `pretrained`.
        loras: merged into `state` already, and into the text encoder here.

    Raises:
        CheckpointError: an encoder is missing or does not fit.
        ConfigError: `out` is taken, or `values` make no run.
    """
    # The config is checked before the folder is begun, in the form in which the folder will hold it.
    values = portable(values)
    if pretrained is not None:
        values["pretrained_model_name_or_path"] = HERE
    config = validate(TrainConfig, values, f"config of {about.source}")

    with _new_folder(Path(out), overwrite) as folder:
        # Encoders first: if one is missing or does not fit, little has been written in vain.
        parts = encoder_parts(config) if pretrained is not None else ()
        for part in parts:
            _copy_part(pretrained / part, folder / part, (encoders or {}).get(part))  # type: ignore[operator]
            for file in sorted((folder / part).glob("*.safetensors")):
                require_finite(file, pretrained / part / file.name, "give another --pretrained")  # type: ignore[operator]
        if pretrained is not None:
            _check_encoders(pretrained, folder, config)
        _merge_text(folder, config, loras)

        # What a look at unfinished clips needs: the colours of the autoencoder's latents, where it is at hand.
        if config.autoencoder.type == "patch" or "vae" in parts:
            autoencoder = build_autoencoder(config.autoencoder, str(folder), config.latent_stride)
            fit_preview(autoencoder).save(folder / PREVIEW)

        # The network and its scheduler, in the layout that diffusers reads.
        save_network(folder / NETWORK, config.model, state)
        if constants:
            save_tensors({name: value.clone() for name, value in constants.items()}, folder / NETWORK / CONSTANTS)
        scheduler = make_scheduler(config.sampling.scheduler, NoiseSchedule.from_config(config))
        scheduler.save_pretrained(folder / "scheduler")

        # The code by which diffusers runs the folder, if it holds all that sampling needs.
        portable_code = parts == encoder_parts(config)
        if portable_code:
            write_code(folder, config, type(scheduler).__name__)

        # What only this project reads, and the model card.
        (folder / RUN_CONFIG).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        (folder / EXPORT).write_text(json.dumps(about.model_dump(), indent=2) + "\n")
        (folder / "README.md").write_text(
            model_card(config, about.model_dump(), parts, portable=portable_code), encoding="utf-8"
        )


def portable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config without its paths, but for the folder of the encoders if it needs one.

    Adapters are merged into the weights that the config goes with: it tells of none.
    """
    result = dict(values) | {"output_dir": HERE, "init_weights": None, "resume_from_checkpoint": None}
    result |= {"extract_ema": False, "add_difference": None}
    if result.get("trainable") == "lora":
        result["trainable"] = "all"
        result.pop("lora", None)
    result["data"] = dict(values.get("data") or {}) | {"train": [], "validation": [], "cache": None}
    config = validate(TrainConfig, result, "config")
    if not encoder_parts(config):
        result["pretrained_model_name_or_path"] = None
    return result


def _copy_part(source: Path, target: Path, weights: StateDict | None = None) -> None:
    """Copy the files of a subfolder that loading reads, from `source` to the new folder `target`.

    Args:
        source: the subfolder.
        target: the new one.
        weights: what takes the place of the subfolder's safetensors, which then need not be there.

    Raises:
        CheckpointError: there is nothing to copy, or no weights where there should be some.
    """
    found = sorted(source.iterdir()) if source.is_dir() else []
    files = [file for file in found if file.is_file() and file.suffix in COPIED]
    # More dots in the name are another precision: diffusion_pytorch_model.fp16.safetensors.
    files = [file for file in files if file.suffix != ".safetensors" or file.name.count(".") == 1]
    if weights is not None:
        files = [file for file in files if ".safetensors" not in file.name]  # nor an index of several
    complete = source.name == "tokenizer" or weights is not None or any(f.suffix == ".safetensors" for f in files)
    if not files or not complete:
        raise CheckpointError(
            f"{source}: wanted {source.name} in diffusers' format, with safetensors; give another --pretrained, or "
            "export with --no-encoders"
        )
    target.mkdir()
    for file in files:
        shutil.copyfile(file, target / file.name)
    if weights is not None:
        save_tensors(weights, target / ENCODER_WEIGHTS[source.name])


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
    """Give a temporary folder, which replaces `out` if the block succeeds and vanishes if it raises."""
    require_free(out, overwrite=overwrite, replaceable=is_export)
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
