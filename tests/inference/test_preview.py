"""A matrix from latents to colours: fitted well, kept with an export, and drawn between steps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lavie.config.load import load_config
from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import CheckpointError
from lavie.inference.preview import PREVIEW, Preview, PreviewFile, fit_preview
from lavie.inference.text_to_video import TextToVideo
from lavie.models.autoencoder import PatchAutoencoder, build_autoencoder
from lavie.models.text_encoder import HashTextEncoder
from lavie.pixels import to_float
from lavie.testing import tiny_unet
from tests.cascades import random_network


@pytest.mark.parametrize("stage", ("base", "interpolation", "vsr"))
def test_the_demos_autoencoders_are_fitted(stage):
    config = load_config(f"configs/smoke/{stage}.yaml")
    preview = fit_preview(build_autoencoder(config.autoencoder, None, config.latent_stride))
    assert preview.r2 >= 0.8 and preview.matrix.shape == (config.latent_channels, 3)


def test_a_transform_that_keeps_the_means_is_inverted():
    """The first coefficient of a patch is its mean times its side: the fit must find just that."""
    preview = fit_preview(PatchAutoencoder(4, 3, 0.5))
    wanted = torch.zeros(9, 3)
    wanted[0, 0] = wanted[3, 1] = wanted[6, 2] = 1 / (4 * 0.5)
    assert torch.allclose(preview.matrix, wanted, atol=1e-5) and preview.bias.abs().max() < 1e-5
    assert preview.r2 > 1 - 1e-9
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
    latents = PatchAutoencoder(4, 3, 0.5).encode(to_float(torch.tensor(frames)))
    means = frames.reshape(2, 2, 4, 3, 4, 3).mean((2, 4))
    assert np.abs(preview.frames(latents.transpose(0, 1)) - means).max() <= 1


def test_an_autoencoder_of_diffusers_is_fitted_the_same_at_every_call(pretrained):
    config = load_config("configs/base.yaml").autoencoder
    autoencoder = build_autoencoder(config, str(pretrained(4)), 4)
    first, second = fit_preview(autoencoder), fit_preview(autoencoder)
    assert torch.equal(first.matrix, second.matrix) and first.matrix.shape == (4, 3) and first.r2 <= 1


def test_it_comes_back_as_it_was_kept(tmp_path):
    preview = fit_preview(PatchAutoencoder(2, 2))
    preview.save(tmp_path / PREVIEW)
    again = Preview.load(tmp_path / PREVIEW, 6)
    assert torch.equal(again.matrix, preview.matrix) and torch.equal(again.bias, preview.bias)
    assert again.r2 == preview.r2
    with pytest.raises(CheckpointError, match="latents with 6 channels, the autoencoder has 4: delete it"):
        Preview.load(tmp_path / PREVIEW, 4)
    for text in ("{", "{}", json.dumps({"matrix": [[1, 2]], "bias": [0, 0, 0], "r2": 1})):
        (tmp_path / PREVIEW).write_text(text)
        with pytest.raises(CheckpointError, match=rf"{PREVIEW}: cannot be read"):
            Preview.load(tmp_path / PREVIEW, 6)


def test_the_picture_shows_frames_beside_one_another(tmp_path):
    preview = Preview(torch.eye(3), torch.zeros(3), 1.0)
    latents = torch.linspace(-1, 1, 5)[None, :, None, None].expand(3, -1, 8, 16)
    show = PreviewFile(tmp_path / "new", preview)
    show(latents[None])
    picture = np.asarray(Image.open(tmp_path / "new/preview.png"))
    assert picture.shape == (96, 4 * 192, 3)
    assert [picture[0, 192 * i, 0] for i in range(4)] == [0, 64, 191, 255] or picture[0, 0, 0] == 0
    show(latents[None] * float("nan"))  # the first steps may hold no numbers; a picture comes all the same
    show.remove()
    show.remove()
    assert not list((tmp_path / "new").iterdir())


def test_each_step_is_watched_and_nothing_changes_by_it():
    network = random_network(tiny_unet(in_channels=12, out_channels=12))
    sampler = TextToVideo(network, PatchAutoencoder(2, 4), HashTextEncoder(24, 6), NoiseSchedule())
    seen = []
    values = {"num_frames": 2, "height": 16, "width": 16, "num_inference_steps": 6, "indices": [3]}
    clip = sampler(["a"], watch=seen.append, **values)
    assert len(seen) == 6 and all(x.shape == (1, 12, 2, 8, 8) and x.dtype == torch.float32 for x in seen)
    assert (sampler(["a"], **values) == clip).all()
    assert sampler.preview() is sampler.preview()


def test_an_autoencoder_of_nan_is_refused():
    with pytest.raises(CheckpointError, match="latents that are not finite"):
        fit_preview(PatchAutoencoder(4, 3, float("nan")))
