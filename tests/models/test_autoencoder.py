"""The patch transform is orthonormal, the KL autoencoder is diffusers' in pieces."""

import copy

import pytest
import torch
from torch import nn

from lavie.config.model import AutoencoderConfig
from lavie.errors import CheckpointError
from lavie.models.autoencoder import (
    KLAutoencoder,
    NormSilu,
    PatchAutoencoder,
    build_autoencoder,
    cosine_basis,
    fuse_norms,
    sample_posterior,
)
from lavie.testing import ORACLE_ATOL, TOLERANCES, relative_error


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- patch


@pytest.mark.parametrize("size", (1, 2, 4, 8))
def test_basis_is_orthonormal_and_starts_with_the_mean(size):
    basis = cosine_basis(size).flatten(1)
    assert relative_error(basis @ basis.T, torch.eye(size**2)) <= TOLERANCES[torch.float32]
    assert relative_error(basis[0], torch.full((size**2,), 1 / size)) <= TOLERANCES[torch.float32]


def test_basis_goes_from_low_to_high_frequencies():
    basis = cosine_basis(4)
    changes = [sum((b.diff(dim=d).sign().abs().sum() > 0).item() for d in (0, 1)) for b in basis]
    assert changes[0] == 0 and changes[1:3] == [1, 1]
    roughness = [float(b.diff(dim=0).square().sum() + b.diff(dim=1).square().sum()) for b in basis]
    assert roughness[0] == pytest.approx(0, abs=1e-9) and max(roughness) == roughness[-1]


@pytest.mark.parametrize("patch,scale", ((2, 1.0), (4, 0.5)))
def test_all_coefficients_lose_nothing(patch, scale):
    autoencoder = PatchAutoencoder(patch, patch**2, scale)
    pixels = random(3, 3, 8, 16)
    latents = autoencoder.encode(pixels)
    assert latents.shape == (3, autoencoder.channels, 8 // patch, 16 // patch) and autoencoder.stride == patch
    assert relative_error(autoencoder.decode(latents), pixels) <= TOLERANCES[torch.float32]
    assert float(latents.norm()) == pytest.approx(scale * float(pixels.norm()), rel=TOLERANCES[torch.float32])


def test_each_coefficient_has_its_scale():
    pixels = random(2, 3, 8, 8)
    plain, scaled = PatchAutoencoder(4, 3), PatchAutoencoder(4, 3, [1.0, 2.5, 4.0])
    by_coefficient = (plain.encode(pixels).unflatten(1, (3, 3)), scaled.encode(pixels).unflatten(1, (3, 3)))
    for coefficient, factor in enumerate((1.0, 2.5, 4.0)):
        unscaled, times = (latents[:, :, coefficient] for latents in by_coefficient)
        assert relative_error(times, factor * unscaled) <= TOLERANCES[torch.float32]
    latents = random(2, 9, 2, 3)
    assert relative_error(scaled.encode(scaled.decode(latents)), latents) <= TOLERANCES[torch.float32]


def test_patch_1_is_the_identity():
    pixels = random(2, 3, 5, 7)
    autoencoder = PatchAutoencoder(1, 1)
    assert torch.equal(autoencoder.encode(pixels), pixels) and torch.equal(autoencoder.decode(pixels), pixels)


@pytest.mark.parametrize("coefficients", (1, 3, 6))
def test_fewer_coefficients_are_a_projection(coefficients):
    autoencoder = PatchAutoencoder(4, coefficients, 0.5)
    latents = random(2, 3 * coefficients, 2, 3)
    assert relative_error(autoencoder.encode(autoencoder.decode(latents)), latents) <= TOLERANCES[torch.float32]
    pixels = random(2, 3, 16, 24)
    kept = autoencoder.decode(autoencoder.encode(pixels))
    assert float(((pixels - kept) * kept).sum() / pixels.norm() ** 2) == pytest.approx(0, abs=TOLERANCES[torch.float32])
    flat = torch.full((1, 3, 4, 4), 0.3)
    assert relative_error(autoencoder.decode(autoencoder.encode(flat)), flat) <= TOLERANCES[torch.float32]


def test_colours_and_patches_do_not_mix():
    autoencoder = PatchAutoencoder(2, 4)
    pixels = random(1, 3, 4, 4)
    before = autoencoder.encode(pixels)
    pixels[0, 1, 2:, :2] += 1
    changed = (autoencoder.encode(pixels) != before).nonzero()
    assert set(changed[:, 1].tolist()) <= {4, 5, 6, 7} and changed[:, 2:].unique(dim=0).tolist() == [[1, 0]]


# --- KL


@pytest.fixture(scope="module")
def made_vae(make_vae):
    return make_vae(0.25).eval()


@pytest.fixture
def vae(made_vae):
    return copy.deepcopy(made_vae)  # KLAutoencoder changes its norms


@pytest.mark.slow
@torch.no_grad()
def test_kl_is_diffusers(vae):
    autoencoder = KLAutoencoder(copy.deepcopy(vae), 0.25, frames_per_call=8)
    pixels, noise = random(5, 3, 32, 48), random(5, 4, 4, 6, seed=1)
    posterior = vae.encode(pixels).latent_dist
    assert (autoencoder.stride, autoencoder.channels) == (8, 4)
    assert relative_error(autoencoder.encode(pixels), 0.25 * posterior.mean) <= TOLERANCES[torch.float32]
    expected = 0.25 * (posterior.mean + (0.5 * posterior.logvar).exp() * noise)
    assert relative_error(autoencoder.encode(pixels, noise), expected) <= TOLERANCES[torch.float32]
    assert relative_error(autoencoder.encode(pixels), expected) > 0.01
    assert relative_error(autoencoder.decode(noise), vae.decode(noise / 0.25).sample) <= TOLERANCES[torch.float32]


@torch.no_grad()
def test_the_posterior_gives_the_samples_that_diffusers_draws(vae):
    pixels = random(3, 3, 32, 48)
    mean, std = KLAutoencoder(copy.deepcopy(vae), 0.25, frames_per_call=2).posterior(pixels)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
    drawn = 0.25 * vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(5))
    assert relative_error(sample_posterior(mean, std, noise), drawn) <= TOLERANCES[torch.float32]
    assert mean.dtype == std.dtype == torch.float32 and (std > 0).all()
    assert torch.equal(sample_posterior(mean, None, noise), mean)


@pytest.mark.parametrize("frames_per_call", (1, 2, 3, 5))
def test_chunks_change_nothing_and_bound_the_batch(vae, frames_per_call):
    whole, parts = KLAutoencoder(vae, 0.25, 100), KLAutoencoder(vae, 0.25, frames_per_call)
    pixels, noise = random(5, 3, 32, 48), random(5, 4, 4, 6, seed=1)
    sizes = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        for module in (vae.encoder, vae.decoder)
    ]
    latents, decoded = parts.encode(pixels, noise), parts.decode(noise)
    for hook in hooks:
        hook.remove()
    assert max(sizes) == frames_per_call and sum(sizes) == 10
    assert float((latents - whole.encode(pixels, noise)).abs().max()) <= ORACLE_ATOL
    assert float((decoded - whole.decode(noise)).abs().max()) <= ORACLE_ATOL
    assert not latents.requires_grad and not decoded.requires_grad


@torch.no_grad()
def test_every_norm_with_silu_is_one_operation_and_the_weights_keep_their_names(vae):
    fused = fuse_norms(copy.deepcopy(vae))
    left = {name for name, module in fused.named_modules() if isinstance(module, (nn.GroupNorm, nn.SiLU))}
    assert left and all(name.endswith("attentions.0.group_norm") for name in left)
    norms = sum(isinstance(module, NormSilu) for module in fused.modules())
    assert norms == sum(isinstance(m, nn.GroupNorm) for m in vae.modules()) - len(left)
    before, after = vae.state_dict(), fused.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert sum(isinstance(module, NormSilu) for module in fuse_norms(fused).modules()) == norms

    # In float64 the two can only differ in the order of sums.
    pixels, latents = random(2, 3, 32, 48).double(), random(2, 4, 4, 6).double()
    fused, plain = fused.double(), copy.deepcopy(vae).double()
    assert relative_error(fused.encode(pixels).latent_dist.mean, plain.encode(pixels).latent_dist.mean) < 1e-12
    assert relative_error(fused.decode(latents).sample, plain.decode(latents).sample) < 1e-12


def test_low_precision_weights_give_float32(vae):
    autoencoder = KLAutoencoder(copy.deepcopy(vae).bfloat16(), 0.25, 8)
    pixels, noise = random(2, 3, 32, 48), random(2, 4, 4, 6, seed=1)
    assert autoencoder.encode(pixels, noise).dtype == autoencoder.decode(noise).dtype == torch.float32


# --- build


def test_build_from_a_folder(vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    autoencoder = build_autoencoder(AutoencoderConfig(frames_per_call=3), str(tmp_path))
    pixels = random(2, 3, 16, 24)
    vae.requires_grad_(False)  # as the built one is: other kernels compute where gradients are needed
    assert torch.equal(autoencoder.encode(pixels), KLAutoencoder(vae, 0.25, 3).encode(pixels))
    assert autoencoder.frames_per_call == 3 and not autoencoder.vae.training
    assert not any(p.requires_grad for p in autoencoder.parameters())
    doubled = build_autoencoder(AutoencoderConfig(scaling_factor=0.5), str(tmp_path))
    assert torch.equal(doubled.encode(pixels), 2 * autoencoder.encode(pixels))


def test_build_names_the_key_when_there_is_none(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=f"pretrained_model_name_or_path {path}: no autoencoder in vae/"):
            build_autoencoder(AutoencoderConfig(), str(path))


def test_build_patch():
    autoencoder = build_autoencoder(AutoencoderConfig(type="patch", patch_size=2), None)
    assert (autoencoder.stride, autoencoder.channels, float(autoencoder.scale.max())) == (2, 12, 1.0)
    low = build_autoencoder(AutoencoderConfig(type="patch", patch_size=4, coefficients=3, scaling_factor=2), None)
    assert (low.stride, low.channels, float(low.scale.min())) == (4, 9, 2)
    assert not low.state_dict() and not list(low.parameters())
