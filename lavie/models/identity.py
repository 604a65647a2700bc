"""The identity of frozen encoders, told without loading them: the bytes of their files, and their options."""

import hashlib
from pathlib import Path
from typing import Any

from ..config.train import TrainConfig
from ..errors import CheckpointError

SUFFIXES = (".json", ".txt", ".safetensors")
"""Endings of the files that autoencoder, text encoder and tokenizer are loaded from."""


def encoder_identity(config: TrainConfig) -> dict[str, Any]:
    """Return all that latents and text features depend on beside the data, by the key or folder that decides it.

    Raises:
        CheckpointError: a folder of the pretrained encoders is missing.
    """
    autoencoder, text = config.autoencoder, config.text_encoder
    identity: dict[str, Any] = {
        "autoencoder.type": autoencoder.type,
        "autoencoder.scaling_factor": autoencoder.scaling_factor,  # None: the one in vae/'s own config.json
        "text_encoder.type": text.type,
        "text_encoder.max_length": text.max_length,
        "model.cross_attention_dim": config.model.cross_attention_dim,
    }

    # A patch transform is its numbers; what diffusers and transformers load is the bytes of its files.
    folders = []
    if autoencoder.type == "patch":
        identity["autoencoder.scaling_factor"] = autoencoder.scaling_factor or 1.0
        identity["autoencoder.patch_size"] = autoencoder.patch_size
        identity["autoencoder.coefficients"] = autoencoder.coefficients or autoencoder.patch_size**2
    else:
        folders += ["vae"]
    if text.type == "clip":
        folders += ["text_encoder", "tokenizer"]

    for name in folders:
        assert config.pretrained_model_name_or_path is not None, "TrainConfig refuses these types without it"
        identity[f"{name}/"] = _hash(Path(config.pretrained_model_name_or_path) / name)
    return identity


def _hash(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of a folder's files."""
    files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    if not files:
        raise CheckpointError(
            f"pretrained_model_name_or_path {folder.parent}: no files of an encoder in {folder.name}/"
        )
    whole = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
