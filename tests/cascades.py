"""A whole cascade of tiny random networks, as folders of finished runs."""

from functools import cache

import pytest
import torch
import yaml

from lavie.config.load import dump_yaml, validate
from lavie.config.train import TrainConfig
from lavie.files import sha256_of
from lavie.manifest import write_manifest
from lavie.models.unet import VideoUNet
from lavie.models.weights import save_network
from lavie.run_folder import MANIFEST
from lavie.tensor_file import FileRecord
from lavie.testing import tiny_unet
from tests.models.tokenizer import TOKENS, save_tokenizer

STAGE_MODELS = {
    "base": {"in_channels": 12, "out_channels": 12},
    "interpolation": {
        "in_channels": 24,
        "out_channels": 12,
        "spatial_attention": "first_and_previous",
        "temporal_order": "after_feed_forward",
        "rotary_dim": 0,
        "relative_bias": False,
    },
    "vsr": {
        "in_channels": 9,
        "out_channels": 6,
        "cross_attention": (True, False),
        "only_cross_attention": (True, False),
        "linear_projection": True,
        "num_noise_levels": 20,
        "max_noise_level": 10,
        "temporal_convolutions": True,
    },
}


def random_network(config, seed=0):
    """Return a network with random weights everywhere, the zero-initialised ones too."""
    torch.manual_seed(seed)
    network = VideoUNet(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return network.eval()


def stage_config(stage, **changes):
    """Return the config of a run of a tiny network of the stage, with some keys changed."""
    values = {
        "stage": stage,
        "output_dir": "unused",
        "model": tiny_unet(**STAGE_MODELS[stage]).model_dump(),
        "autoencoder": {"type": "patch", "patch_size": 4, "coefficients": 2}
        if stage == "vsr"
        else {"type": "patch", "patch_size": 2},
        "text_encoder": {"type": "hash", "max_length": 6},
        "data": {
            "train": [],
            "num_frames": 3 if stage == "base" else 9,
            "num_images": 0,
            "height": 16,
            "width": 24,
            "fps": 8,
        },
        "prediction_type": "v_prediction" if stage == "vsr" else "epsilon",
        "sampling": {"scheduler": "euler", "num_inference_steps": 3, "guidance_scale": 2.0, "noise_level": 5},
        "max_train_steps": 1,
    }
    return validate(TrainConfig, values | changes, stage)


def seal(checkpoint):
    """Write the manifest of a folder checkpoint-3, with the hashes of the files that lie there."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    records = {
        path.relative_to(checkpoint).as_posix(): FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in files
    }
    write_manifest(checkpoint, {"step": 3}, records)


@pytest.fixture(scope="session")
def cascade_folder(tmp_path_factory):
    """Provide a folder with base/, interpolation/ and vsr/, each the folder of a run with a checkpoint-3.

    The three stages make 3 frames of 16 x 24 pixels, then 9, then 9 of 64 x 96.
    """
    root = tmp_path_factory.mktemp("cascade")
    for seed, stage in enumerate(STAGE_MODELS):
        config = stage_config(stage)
        folder = root / stage / "checkpoint-3"
        save_network(folder / "unet", config.model, random_network(config.model, seed).state_dict())
        (folder / "config.yaml").write_text(dump_yaml(config))
        seal(folder)
    return root


@pytest.fixture
def without_sampling(cascade_folder, tmp_path):
    """Provide a folder with the networks of `cascade_folder`, whose config.yaml files have no section `sampling`."""
    for stage in STAGE_MODELS:
        source, folder = cascade_folder / stage / "checkpoint-3", tmp_path / "released" / stage
        folder.mkdir(parents=True)
        values = yaml.safe_load((source / "config.yaml").read_text())
        del values["sampling"]
        if stage == "vsr":
            values["model"]["max_noise_level"] = None
            values["model"]["num_noise_levels"] = 100
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        (folder / MANIFEST).write_text("{}")
        (folder / "unet").symlink_to(source / "unet")
    return tmp_path / "released"


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """Provide a function from an autoencoder's stride to a folder like Stable Diffusion's, in diffusers' format.

    The folder holds a tiny random autoencoder of that stride and a tiny random CLIP of 32 features, whose tokens are
    letters, beside files that no one should copy.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    @cache
    def make(stride=8):
        """Make the folder of a stride, once in a session."""
        torch.manual_seed(0)
        root, levels = tmp_path_factory.mktemp("pretrained"), stride.bit_length()
        AutoencoderKL(
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.25,
        ).save_pretrained(root / "vae")

        sizes = {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": len(TOKENS),
        }
        CLIPTextModel(CLIPTextConfig(**sizes)).save_pretrained(root / "text_encoder")
        save_tokenizer(root / "tokenizer")

        # What no one should copy.
        (root / "vae/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half as precise")
        (root / "text_encoder/pytorch_model.bin").write_bytes(b"a pickle")
        return root

    return make
