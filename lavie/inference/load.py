"""Load a stage of the cascade from the folder that its training run left, or from an exported folder."""

from pathlib import Path

import torch

from ..config.load import load_config
from ..config.stages import STAGES
from ..config.train import TrainConfig
from ..errors import CheckpointError, ConfigError
from ..models.autoencoder import KLAutoencoder, PatchAutoencoder, build_autoencoder
from ..models.backends import require_backends, set_backends
from ..models.text_encoder import ClipTextEncoder, HashTextEncoder, build_text_encoder
from ..models.unet import VideoUNet
from ..models.weights import load_network, weight_files
from ..run_folder import NETWORK, RUN_CONFIG, find_stage, is_export
from .interpolation import Interpolator
from .sampler import Sampler
from .super_resolution import SuperResolver
from .text_to_video import TextToVideo

META = torch.device("meta")
SAMPLERS: dict[str, type[Sampler]] = {"base": TextToVideo, "interpolation": Interpolator, "vsr": SuperResolver}
"""The sampler of each stage."""


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
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
) -> tuple[Sampler, TrainConfig]:
    """Return the sampler in a folder, and the config of its run.

    Autoencoder and text encoder are those of the run, or lie in the exported folder.

    Args:
        checkpoint: a checkpoint-<step> folder, a run's folder (its newest checkpoint), or an exported folder.
        device: default: a GPU where there is one. On "meta" nothing is loaded: tensors have sizes only.
        dtype: of the network and of the autoencoder, unless the stage's autoencoder overflows in 16 bits; default:
            bfloat16 on GPUs, else float32. Text encoders stay in float32.
        runs_on: where the network will run, if it is loaded on a `device` that it only waits on.

    Raises:
        CheckpointError: there is no such folder, or something in it is missing.
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

    # An estimate needs the sizes of the parts only: on the meta device no weights are read.
    pretrained = encoders_folder(folder, config)
    if device == META:
        weight_files(folder / NETWORK)  # an estimate of what cannot be loaded helps nobody
        network, autoencoder, text_encoder = _sizes(config, dtype, pretrained)
    else:
        network = load_network(folder / NETWORK, device, dtype)
        set_backends(network, kernels=config.kernels, attention=config.attention)
        autoencoder = build_autoencoder(config.autoencoder, pretrained, config.latent_stride)
        text_encoder = build_text_encoder(config.text_encoder, config.model.cross_attention_dim, pretrained).to(device)

    # An autoencoder that overflows in 16 bits stays in float32.
    autoencoder = autoencoder.to(device, torch.float32 if STAGES[config.stage].autoencoder_float32 else dtype)
    return SAMPLERS[config.stage].of_run(config, network, autoencoder, text_encoder), config


def load_pipeline(checkpoint: str | Path) -> tuple[TextToVideo, TrainConfig]:
    """Return the sampler of a base network and the config of its run, on a GPU where there is one.

    Args:
        checkpoint: as for `load_stage`.

    Raises:
        CheckpointError: there is no such folder, or something in it is missing.
        ConfigError: it is of another stage than base.
    """
    pipeline, config = load_stage(checkpoint)
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
        from diffusers import AutoencoderKL

        try:
            values = AutoencoderKL.load_config(pretrained, subfolder="vae", local_files_only=True)
        except OSError as error:
            raise CheckpointError(f"pretrained_model_name_or_path {pretrained}: no vae/config.json: {error}") from None
        with META:
            vae = AutoencoderKL.from_config(values).eval()
        autoencoder = KLAutoencoder(vae, 1.0, config.autoencoder.frames_per_call)
    if config.text_encoder.type == "hash":
        text_encoder = build_text_encoder(config.text_encoder, config.model.cross_attention_dim, None)
    else:
        from transformers import CLIPTextConfig, CLIPTextModel

        try:
            text_config = CLIPTextConfig.from_pretrained(
                str(pretrained), subfolder="text_encoder", local_files_only=True
            )
        except OSError as error:
            raise CheckpointError(
                f"pretrained_model_name_or_path {pretrained}: no text_encoder/config.json: {error}"
            ) from None
        with META:
            text_encoder = ClipTextEncoder(CLIPTextModel(text_config), None, config.text_encoder.max_length)
    return network, autoencoder, text_encoder
