"""Encoders that are elsewhere have the sizes of the released ones, counted by hand; what a folder says comes first."""

import json

import pytest
import torch

from lavie.models.meta_encoders import clip_parameters, meta_autoencoder


def conv(inputs: int, outputs: int, size: int = 3) -> int:
    return inputs * outputs * size**2 + outputs


def resnet(inputs: int, outputs: int) -> int:
    """Two group norms and two convolutions, and a third convolution of one pixel where the width changes."""
    shortcut = conv(inputs, outputs, 1) if inputs != outputs else 0
    return 2 * inputs + conv(inputs, outputs) + 2 * outputs + conv(outputs, outputs) + shortcut


def autoencoder(widths: tuple[int, ...], latents: int = 4) -> int:
    """Stable Diffusion's autoencoder: per level two residual blocks on the way down, and three on the way up."""
    first, last = widths[0], widths[-1]
    attention = 2 * last + 4 * (last * last + last)
    middle = 2 * resnet(last, last) + attention
    total = conv(3, first) + middle + 2 * last + conv(last, 2 * latents) + conv(2 * latents, 2 * latents, 1)
    total += conv(latents, latents, 1) + conv(latents, last) + middle + 2 * first + conv(first, 3)
    for before, width in zip((first, *widths), widths, strict=False):
        total += resnet(before, width) + resnet(width, width)
    for before, width in zip((last, *widths[::-1]), widths[::-1], strict=False):
        total += resnet(before, width) + 2 * resnet(width, width)
    for width in widths[:-1]:
        total += conv(width, width)  # to half the size, at the end of a level
    for width in widths[:0:-1]:
        total += conv(width, width)  # and to twice the size
    return total


@pytest.mark.parametrize(
    "stride, widths, count", ((8, (128, 256, 512, 512), 83_653_863), (4, (128, 256, 512), 55_325_927))
)
def test_autoencoders_as_released(stride, widths, count):
    """The first count is also the published one, of 334.6 MB in float32."""
    vae = meta_autoencoder(None, stride, torch.bfloat16)
    assert sum(p.numel() for p in vae.parameters()) == autoencoder(widths) == count
    assert {(p.device.type, p.dtype, p.requires_grad) for p in vae.parameters()} == {("meta", torch.bfloat16, False)}
    pixels = torch.empty(1, 3, 64, 96, device="meta", dtype=torch.bfloat16)
    latents = vae.encode(pixels).latent_dist.mean
    assert latents.shape == (1, 4, 64 // stride, 96 // stride) and vae.decode(latents).sample.shape == pixels.shape


@pytest.mark.parametrize(
    "width, inner, layers, count", ((768, 3072, 12, 123_060_480), (1024, 4096, 23, 340_387_840), (40, 3072, 12, None))
)
def test_text_encoders_as_released(width, inner, layers, count):
    """Of a width that none of them has, the smaller one is counted."""
    found = clip_parameters(None, width)
    width = max(width, 768)
    layer = 4 * (width * width + width) + 4 * width + 2 * width * inner + inner + width
    assert found == (49408 + 77) * width + layers * layer + 2 * width
    assert count in (found, None)


def test_what_a_folder_says_of_itself_comes_first(tmp_path):
    levels = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    small = {"block_out_channels": [32, 64], "layers_per_block": 2, "latent_channels": 4} | levels
    text = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert meta_autoencoder(str(tmp_path), 4, torch.float32).config["block_out_channels"] == [128, 256, 512]
    for name, values in (("vae", small), ("text_encoder", text)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    vae = meta_autoencoder(str(tmp_path), 8, torch.float32)
    assert sum(p.numel() for p in vae.parameters()) == autoencoder((32, 64))
    assert clip_parameters(str(tmp_path), 768) == (49408 + 77) * 64 + 4 * 64 * 65 + 4 * 64 + 2 * 64 * 32 + 96 + 2 * 64
