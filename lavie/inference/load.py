"""Load a stage of the cascade from the folder that its training run left, or from an exported folder."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..arithmetic import set_arithmetic
from ..config.load import load_config
from ..config.stages import STAGES
from ..config.train import TrainConfig
from ..errors import CheckpointError, ConfigError
from ..gpus import require_visible_gpus
from ..manifest import require_whole_network
from ..models.autoencoder import KLAutoencoder, PatchAutoencoder, build_autoencoder
from ..models.backends import require_backends, set_backends
from ..models.lora.choice import LoraChoice, apply_choices, read_choices
from ..models.lora.trained import has_adapters, load_adapted, load_base, read_base, require_base_there
from ..models.meta_encoders import meta_autoencoder, meta_text_model
from ..models.text_encoder import ClipTextEncoder, HashTextEncoder, build_text_encoder
from ..models.unet import VideoUNet
from ..models.weights import load_network, weight_files
from ..run_folder import NETWORK, RUN_CONFIG, find_stage, is_export
from .interpolation import Interpolator
from .preview import PREVIEW, Preview
from .sampler import Sampler
from .super_resolution import SuperResolver
from .text_to_video import TextToVideo

META = torch.device("meta")
SAMPLERS: dict[str, type[Sampler]] = {"base": TextToVideo, "interpolation": Interpolator, "vsr": SuperResolver}
"""The sampler of each stage."""


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU.

    Raises:
        ConfigError: there are GPUs, and PyTorch sees none.
    """
    require_visible_gpus()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype_on(device: torch.device) -> torch.dtype:
    """Return the dtype that networks run in: bfloat16 on GPUs, float32 on CPUs, the default device's on "meta"."""
    runs_on = default_device() if device == META else device
    return torch.bfloat16 if runs_on.type == "cuda" else torch.float32


def load_stage(
    checkpoint: str | Path,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    runs_on: torch.device | None = None,
    loras: Sequence[LoraChoice] = (),
    adapters: bool = True,
) -> tuple[Sampler, TrainConfig]:
    """Return the sampler in a folder, and the config of its run.

    Autoencoder and text encoder are those of the run, or lie in the exported folder.

    Args:
        checkpoint: a checkpoint-<step> folder, a run's folder (its newest checkpoint), or an exported folder.
        device: default: a GPU where there is one. On "meta" nothing is loaded: tensors have sizes only.
        dtype: of the network and of the autoencoder, unless the stage's autoencoder overflows in 16 bits; default:
            bfloat16 on GPUs, else float32. Text encoders stay in float32.
        runs_on: where the network will run, if it is loaded on a `device` that it only waits on.
        loras: merged into the network and its text encoder, before the weights are rounded to `dtype`.
        adapters: whether the network of a run that trains adapters has them; else it is that run's base.

    Raises:
        CheckpointError: there is no such folder, or something in it is missing; or a LoRA does not fit the network.
        KernelError: the run's `kernels` or `attention` cannot run there.
    """
    # What cannot run is refused before weights are read, which takes long.
    folder = find_stage(checkpoint)
    config = load_config(folder / RUN_CONFIG)
    device = device or default_device()
    dtype = dtype or dtype_on(device)
    runs_on = runs_on or device
    if runs_on != META:  # where operations compute sizes only, on no backend
        require_backends(config.kernels, config.attention, runs_on)
        set_arithmetic(runs_on, tf32=config.tf32)
    files = read_choices(loras, config.model)

    # An estimate needs the sizes of the parts only: on the meta device no weights are read.
    pretrained = encoders_folder(folder, config)
    if device == META:
        _require_weights(folder)  # an estimate of what cannot be loaded helps nobody
        for part in encoder_parts(config):
            if part != "tokenizer" and not (Path(pretrained or "") / part / "config.json").is_file():
                raise CheckpointError(f"pretrained_model_name_or_path {pretrained}: no {part}/config.json in it")
        return planned_stage(config, dtype, pretrained), config

    require_whole_network(folder)
    # Changes are added in float32, and the sums are rounded once.
    if has_adapters(folder):
        network = load_adapted(folder, config) if adapters else load_base(folder, config).eval()
        network = network if files else network.to(device, dtype)
    else:
        network = load_network(folder / NETWORK) if files else load_network(folder / NETWORK, device, dtype)
    set_backends(network, kernels=config.kernels, attention=config.attention)
    autoencoder = build_autoencoder(config.autoencoder, pretrained, config.latent_stride)
    text_encoder = build_text_encoder(config.text_encoder, config.model.cross_attention_dim, pretrained)
    if files:
        apply_choices(files, network, text_encoder)
        network.to(device, dtype)
    text_encoder.to(device)
    sampler = _sampler(config, network, autoencoder, text_encoder, device, dtype)
    if is_export(folder) and (folder / PREVIEW).is_file():
        sampler.set_preview(Preview.load(folder / PREVIEW, autoencoder.channels))
    return sampler, config


def _require_weights(folder: Path) -> None:
    """Raise CheckpointError if the weights of a stage's folder are not there; none are read."""
    if has_adapters(folder):
        require_base_there(folder, read_base(folder))
    else:
        weight_files(folder / NETWORK)


def planned_stage(config: TrainConfig, dtype: torch.dtype, pretrained: str | None) -> Sampler:
    """Return the sampler of a run on the meta device: nothing of it need be there.

    Args:
        config: the run.
        dtype: of the network, and of the autoencoder unless that overflows in 16 bits.
        pretrained: the folder of the encoders; where it is elsewhere they have the sizes of the released ones.
    """
    network, autoencoder, text_encoder = _sizes(config, dtype, pretrained)
    return _sampler(config, network, autoencoder, text_encoder, META, dtype)


def _sampler(
    config: TrainConfig,
    network: VideoUNet,
    autoencoder: PatchAutoencoder | KLAutoencoder,
    text_encoder: HashTextEncoder | ClipTextEncoder,
    device: torch.device,
    dtype: torch.dtype,
) -> Sampler:
    """Join the parts of a stage; its autoencoder goes to the device, in float32 if it overflows in 16 bits."""
    autoencoder = autoencoder.to(device, torch.float32 if STAGES[config.stage].autoencoder_float32 else dtype)
    return SAMPLERS[config.stage].of_run(config, network, autoencoder, text_encoder)


def load_pipeline(
    checkpoint: str | Path,
    *,
    loras: Sequence[LoraChoice] = (),
    adapters: bool = True,
    device: torch.device | None = None,
) -> tuple[TextToVideo, TrainConfig]:
    """Return the sampler of a base network and the config of its run, on a GPU where there is one.

    Args:
        checkpoint, loras, adapters, device: as for `load_stage`.

    Raises:
        CheckpointError: there is no such folder, something in it is missing, or a LoRA does not fit.
        ConfigError: it is of another stage than base.
    """
    pipeline, config = load_stage(checkpoint, loras=loras, adapters=adapters, device=device)
    if not isinstance(pipeline, TextToVideo):
        raise ConfigError(
            f"--checkpoint {checkpoint} is of stage {config.stage}, which draws nothing from a prompt alone: wanted a "
            "run of stage base, or `lavie generate` with a folder of all stages"
        )
    return pipeline, config


HERE = "."
"""The pretrained_model_name_or_path of an exported folder: that folder itself."""


def encoders_folder(folder: Path, config: TrainConfig) -> str | None:
    """Return where the autoencoder and the text encoder of the stage in `folder` lie; None if neither has weights.

    Raises:
        CheckpointError: an exported folder lacks one that it needs.
    """
    pretrained = config.pretrained_model_name_or_path
    if pretrained != HERE or not is_export(folder):
        return pretrained
    for part in encoder_parts(config):
        if not (folder / part).is_dir():
            raise CheckpointError(
                f"{folder} was made without {part}/: `lavie import {folder} OUT --stage {config.stage} --pretrained "
                "FOLDER` makes a whole one"
            )
    return str(folder)


def encoder_parts(config: TrainConfig) -> tuple[str, ...]:
    """Return the subfolders of pretrained_model_name_or_path that sampling reads."""
    autoencoder = ("vae",) if config.autoencoder.type == "diffusers" else ()
    return autoencoder + (("text_encoder", "tokenizer") if config.text_encoder.type == "clip" else ())


def _sizes(
    config: TrainConfig, dtype: torch.dtype, pretrained: str | None
) -> tuple[VideoUNet, PatchAutoencoder | KLAutoencoder, HashTextEncoder | ClipTextEncoder]:
    """Return network, autoencoder and text encoder on the meta device, with sizes and without data."""
    autoencoder: PatchAutoencoder | KLAutoencoder
    text_encoder: HashTextEncoder | ClipTextEncoder
    with META:
        network = VideoUNet(config.model).to(dtype).eval()
    if config.autoencoder.type == "patch":
        autoencoder = build_autoencoder(config.autoencoder, None)
    else:
        vae = meta_autoencoder(pretrained, config.latent_stride, torch.float32).eval()
        autoencoder = KLAutoencoder(vae, 1.0, config.autoencoder.frames_per_call)
    if config.text_encoder.type == "hash":
        text_encoder = build_text_encoder(config.text_encoder, config.model.cross_attention_dim, None)
    else:
        model = meta_text_model(pretrained, config.model.cross_attention_dim)
        text_encoder = ClipTextEncoder(model, None, config.text_encoder.max_length)
    return network, autoencoder, text_encoder
