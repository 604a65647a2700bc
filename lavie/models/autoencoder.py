"""Autoencoders between pixels and latents, behind one interface: diffusers', or a patch transform without weights.

pixels: float (B, 3, H, W) in [-1, 1]. latents: float (B, channels, H / stride, W / stride), multiplied by the scaling
factor.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.model import AutoencoderConfig
from ..errors import CheckpointError
from ..ops.group_norm_silu import group_norm_silu


class Autoencoder(Protocol):
    """What training and sampling need of an autoencoder."""

    stride: int
    """Pixels per latent, along both axes."""
    channels: int
    """Channels of the latents."""

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and std of the latents, each float32 and scaled; std is None where the latents are certain."""
        ...

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return latents: mean + std * noise, with noise shaped like them, or the mean without noise."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels, not clamped."""
        ...


def sample_posterior(mean: Tensor, std: Tensor | None, noise: Tensor | None) -> Tensor:
    """Return mean + std * noise, or the mean where std or noise is None; all of one shape."""
    return mean if std is None or noise is None else mean + std * noise


def empty_latents(autoencoder: Autoencoder, height: int, width: int, device: torch.device | str) -> Tensor:
    """Return the latents of a frame of grey pixels, 0 in -1 .. 1, which stands for a frame that is not given.

    Args:
        autoencoder: any.
        height, width: of the frame in pixels.
        device: where the autoencoder is.

    Returns:
        float32 (C, height / stride, width / stride): the mean of the posterior.
    """
    return autoencoder.posterior(torch.zeros(1, 3, height, width, device=device))[0][0].float()


class PatchAutoencoder(nn.Module):
    """An orthonormal cosine transform of each patch, colour by colour; it has no weights.

    With all coefficients it is lossless. Fewer coefficients keep the lowest frequencies: a low-pass filter. Patch
    size 1 is the identity.
    """

    def __init__(self, patch_size: int, coefficients: int, scaling_factor: float | Sequence[float] = 1.0):
        """Take the pixels per patch along each axis, the coefficients to keep, and one factor for all or for each."""
        super().__init__()
        self.stride, self.channels = patch_size, 3 * coefficients
        # No buffers: they stay float32 where the network is bf16.
        self.scale = torch.tensor(scaling_factor).expand(coefficients).repeat(3)[:, None, None]
        self.basis = cosine_basis(patch_size)[:coefficients, None]

    def posterior(self, pixels: Tensor) -> tuple[Tensor, None]:
        """Return the latents, which are certain."""
        return self.encode(pixels), None

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Transform each patch of each colour; noise is not read."""
        planes = F.conv2d(pixels.flatten(0, 1)[:, None], self.basis.to(pixels), stride=self.stride)
        return planes.unflatten(0, pixels.shape[:2]).flatten(1, 2) * self.scale.to(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Transform the coefficients back; those that were not kept count as zero."""
        planes = (latents / self.scale.to(latents)).unflatten(1, (3, -1))
        pixels = F.conv_transpose2d(planes.flatten(0, 1), self.basis.to(latents), stride=self.stride)
        return pixels.unflatten(0, planes.shape[:2]).flatten(1, 2)


def cosine_basis(size: int) -> Tensor:
    """Return the size^2 orthonormal 2-D DCT-II functions, (size^2, size, size) float32, low frequencies first."""
    place, frequency = torch.arange(size, dtype=torch.float64) + 0.5, torch.arange(size, dtype=torch.float64)[:, None]
    rows = torch.cos(math.pi / size * frequency * place) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    order = sorted(((i, j) for i in range(size) for j in range(size)), key=lambda ij: (sum(ij), ij))
    return torch.stack([torch.outer(rows[i], rows[j]) for i, j in order]).float()


class NormSilu(nn.Module):
    """A frozen GroupNorm and the SiLU behind it in one operation, under the GroupNorm's names of its weights."""

    def __init__(self, norm: nn.GroupNorm):
        """Take the weights of a norm over the same channels."""
        super().__init__()
        self.weight, self.bias, self.groups, self.eps = norm.weight, norm.bias, norm.num_groups, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W) and apply SiLU; each row alone."""
        return group_norm_silu(x, self.weight, self.bias, groups=self.groups, eps=self.eps)


def fuse_norms(vae: nn.Module) -> nn.Module:
    """Let diffusers' autoencoder compute each pair of GroupNorm and SiLU in one operation, channels last, in place.

    Its outputs are the same up to rounding, and the names and values of its weights as they were. The norm of the
    attention has no SiLU behind it, and stays. An autoencoder that was changed before is left as it is.

    Returns:
        vae itself.
    """
    for module in vae.modules():
        for norms, silu in ((("norm1", "norm2"), "nonlinearity"), (("conv_norm_out",), "conv_act")):
            found = {name: norm for name in norms if isinstance(norm := getattr(module, name, None), nn.GroupNorm)}
            if len(found) == len(norms) and isinstance(getattr(module, silu), nn.SiLU):
                for name, norm in found.items():
                    setattr(module, name, NormSilu(norm))
                setattr(module, silu, nn.Identity())
    # Not the module's own `to`: diffusers' one warns of dtypes, which this does not concern.
    nn.Module.to(vae, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return vae


class KLAutoencoder(nn.Module):
    """Stable Diffusion's autoencoder, run on a few frames at a time to bound its memory."""

    def __init__(self, vae: Any, scaling_factor: float, frames_per_call: int):
        """Take diffusers' autoencoder, whose norms are fused in place, its latents' factor, and frames of a call."""
        super().__init__()
        fuse_norms(vae)
        self.vae, self.scaling_factor, self.frames_per_call = vae, scaling_factor, frames_per_call
        self.stride: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels: int = vae.config.latent_channels

    @torch.no_grad()
    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std of the latents, float32 and scaled."""
        posteriors = [self.vae.encode(chunk).latent_dist for chunk in self._chunks(pixels)]
        mean, std = (torch.cat([getattr(p, name) for p in posteriors]).float() for name in ("mean", "std"))
        return mean * self.scaling_factor, std * self.scaling_factor

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return latents: mean + std * noise, or the mean without noise."""
        return sample_posterior(*self.posterior(pixels), noise)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels in float32, not clamped."""
        scaled = latents / self.scaling_factor
        return torch.cat([self.vae.decode(chunk).sample for chunk in self._chunks(scaled)]).float()

    def _chunks(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the frames of x in the autoencoder's dtype, as many as one call takes."""
        return iter(x.to(self.vae.dtype, memory_format=torch.channels_last).split(self.frames_per_call))


def build_autoencoder(
    config: AutoencoderConfig, pretrained: str | None, stride: int = 8
) -> PatchAutoencoder | KLAutoencoder:
    """Return the autoencoder of a run, frozen.

    Args:
        config: the run's section `autoencoder`.
        pretrained: the folder that holds vae/, for type diffusers.
        stride: the pixels per latent that the network of the stage was made for.

    Raises:
        CheckpointError: there is no such autoencoder, or one of another stride.
    """
    if config.type == "patch":
        coefficients = config.coefficients or config.patch_size**2
        return PatchAutoencoder(config.patch_size, coefficients, config.scaling_factor or 1.0)

    from diffusers import AutoencoderKL

    # An autoencoder of another stride would load, and give latents that the network was not made for.
    try:
        vae = AutoencoderKL.from_pretrained(pretrained, subfolder="vae", local_files_only=True, use_safetensors=True)
    except OSError as error:
        raise CheckpointError(f"pretrained_model_name_or_path {pretrained}: no autoencoder in vae/: {error}") from None
    found, channels = 2 ** (len(vae.config.block_out_channels) - 1), vae.config.latent_channels
    if (found, channels) != (stride, 4):
        raise CheckpointError(
            f"pretrained_model_name_or_path {pretrained}: vae/ maps {found} pixels to a latent of {channels} channels, "
            f"wanted {stride} and 4: Stable Diffusion 1.4 for base and interpolation, its x4 upscaler for vsr"
        )
    scaling = config.scaling_factor or vae.config.scaling_factor
    assert isinstance(scaling, float)  # the config has checked it
    return KLAutoencoder(vae.requires_grad_(False).eval(), scaling, config.frames_per_call)
