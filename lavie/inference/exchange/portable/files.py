"""The code of an exported folder: which sources make its two files, and the index by which diffusers finds them."""

import json
from pathlib import Path
from typing import Any

from ....config.stages import STAGES
from ....config.train import TrainConfig
from ....run_folder import NETWORK
from ...settings import arguments, resolve, run_defaults
from .bundle import bundle

UNET, PIPELINE = "lavie_unet", "lavie_pipeline"
"""The modules of an exported folder. diffusers copies those of all folders to one place: they are the same in all."""
INDEX = "model_index.json"
"""The file by which diffusers knows the folder of a pipeline."""
HERE = "inference/exchange/portable"
UNET_SOURCES = (
    "config/model.py",
    "ops/temporal_attention.py",
    *(f"models/{name}.py" for name in ("embeddings", "frames", "resnet", "temporal", "attention", "blocks", "unet")),
)
PIPELINE_SOURCES = (
    "errors.py",
    "caption_limit.py",
    "carry.py",
    "pixels.py",
    "seeds.py",
    "diffusion/condition.py",
    "diffusion/guidance.py",
    "models/autoencoder.py",
    "models/prompt_syntax.py",
    "models/text_encoder.py",
    "inference/chunking.py",
    "inference/settings.py",
    "inference/latents.py",
)
"""What the files are made of, each module behind those that it builds on."""
KEPT = (
    *("num_inference_steps", "guidance_scale", "negative_prompt", "num_frames", "height", "width", "noise_level"),
    *("window", "overlap", "tile", "tile_overlap", "decode_tile"),
)
"""The settings of a stage that its pipeline has."""


def write_code(folder: Path, config: TrainConfig, scheduler: str) -> None:
    """Write into an exported folder, whose other parts are there, the code and the index by which diffusers loads it.

    Args:
        folder: the folder.
        config: that of its run.
        scheduler: the class of diffusers in scheduler/.
    """
    (folder / NETWORK / f"{UNET}.py").write_text(unet_code(), encoding="utf-8")
    (folder / f"{PIPELINE}.py").write_text(pipeline_code(), encoding="utf-8")
    (folder / INDEX).write_text(json.dumps(model_index(config, scheduler), indent=2) + "\n")


def unet_code() -> str:
    """Return the text of lavie_unet.py."""
    title = "The video UNet of LaVie (Wang et al., IJCV 2024) in plain PyTorch, for diffusers."
    return bundle(title, UNET_SOURCES, f"{HERE}/unet.py", without=("UsesKernels", "UsesAttention"))


def pipeline_code() -> str:
    """Return the text of lavie_pipeline.py."""
    title = "Sampling with a stage of LaVie (Wang et al., IJCV 2024), for diffusers."
    return bundle(title, PIPELINE_SOURCES, f"{HERE}/pipeline.py")


def model_index(config: TrainConfig, scheduler: str) -> dict[str, Any]:
    """Return the content of model_index.json, by which diffusers loads an exported folder.

    Args:
        config: the folder's.
        scheduler: the class of diffusers in scheduler/.
    """
    stage = STAGES[config.stage]
    settings = arguments(getattr(resolve({stage.name: run_defaults(config)}), stage.name))
    none = [None, None]
    clip = config.text_encoder.type == "clip"
    patches: dict[str, Any] | None = None
    if config.autoencoder.type == "patch":
        size = config.autoencoder.patch_size
        patches = {"patch_size": size, "coefficients": config.autoencoder.coefficients or size**2}
        patches["scaling_factor"] = config.autoencoder.scaling_factor or 1.0
    return {
        "_class_name": [PIPELINE, "LaViePipeline"],
        "unet": [UNET, "VideoUNet"],
        "scheduler": ["diffusers", scheduler],
        "vae": none if patches else ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"] if clip else none,
        "tokenizer": ["transformers", "CLIPTokenizer"] if clip else none,
        "condition": config.conditioning,
        "settings": {name: value for name, value in settings.items() if name in KEPT},
        "text_length": config.text_encoder.max_length,
        "scaling_factor": None if patches else config.autoencoder.scaling_factor,
        "patches": patches,
        "keyframe_interval": config.keyframe_interval,
    }
