"""What a batch becomes: noise, timesteps and dropped captions as functions of the global position alone."""

import numpy as np
import pytest
import torch

from lavie.training.objective import Objective
from tests.training.objectives import make_batch, make_objective


def test_rows_do_not_depend_on_their_batch():
    objective = make_objective(caption_dropout=0.5)
    whole = objective.training_inputs(make_batch([3, 4, 5, 6]))
    halves = [objective.training_inputs(make_batch(p)) for p in ([3, 4], [5, 6])]
    for name in ("sample", "timestep", "text", "target"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(h, name) for h in halves])), name


def test_the_sample_holds_signal_and_noise_as_the_schedule_says():
    objective = make_objective()
    batch = make_batch([7, 8])
    inputs = objective.training_inputs(batch)
    pixels = batch["pixels"].flatten(0, 1).permute(0, 3, 1, 2).double() / 127.5 - 1
    latents = objective.autoencoder.encode(pixels).unflatten(0, (2, 5)).transpose(1, 2)
    share = objective.schedule.alphas_cumprod.double()[inputs.timestep].view(2, 1, 1, 1, 1)
    expected = share.sqrt() * latents + (1 - share).sqrt() * inputs.target.double()
    torch.testing.assert_close(inputs.sample.double(), expected, rtol=0, atol=1e-5)
    assert inputs.sample.shape == (2, 12, 5, 4, 4)
    assert inputs.text.shape == (2, 3, 4, 16)


def test_pixels_that_a_decoder_has_normalised_are_the_same():
    objective, batch = make_objective(), make_batch([7, 8])
    normalised = batch | {"pixels": batch["pixels"].permute(0, 1, 4, 2, 3).float() / 127.5 - 1}
    for a, b in zip(objective.training_inputs(batch)[:4], objective.training_inputs(normalised)[:4], strict=True):
        assert torch.equal(a, b)


def test_timesteps_are_uniform_and_noise_is_normal():
    objective = make_objective()
    batches = [objective.training_inputs(make_batch(list(range(i, i + 50)))) for i in range(0, 1000, 50)]
    timesteps = torch.cat([b.timestep for b in batches])
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
    counts = torch.histc(timesteps.float(), bins=10, min=0, max=1000)
    assert (counts - 100).abs().max() < 45  # 4.7 standard deviations of a bin
    noise = torch.cat([b.target for b in batches]).flatten()
    assert abs(float(noise.mean())) < 5e-3
    assert abs(float(noise.std()) - 1) < 5e-3


@pytest.mark.parametrize("drawn, timestep", ((0.0, 0), (0.5, 500), (1 - 2**-53, 999)))
def test_first_and_last_timestep_are_drawn(monkeypatch, drawn, timestep):
    monkeypatch.setattr("lavie.training.objective.uniform", lambda *_: drawn)
    assert make_objective().training_inputs(make_batch([1, 2])).timestep.tolist() == [timestep] * 2


def test_logit_normal_timesteps_follow_their_law():
    objective = make_objective(timestep_sampling={"law": "logit_normal", "mean": -0.3, "std": 0.6})
    drawn = [objective._timesteps(list(range(i, i + 500))) for i in range(0, 4000, 500)]
    share = (torch.cat(drawn).double() + 0.5) / 1000
    logits = torch.log(share / (1 - share))
    assert float(logits.mean()) == pytest.approx(-0.3, abs=4 * 0.6 / 4000**0.5)
    assert float(logits.std()) == pytest.approx(0.6, rel=0.05)
    # With a share of uniform ones: as many below 0.1, where the law alone has hardly any.
    mixed = make_objective(
        timestep_sampling={"law": "logit_normal", "mean": -0.3, "std": 0.6, "uniform_share": 0.4}
    )._timesteps(list(range(4000)))
    low = int((mixed < 100).sum())
    assert int((torch.cat(drawn) < 100).sum()) < 20 and abs(low - 160) < 5 * 160**0.5
    # Or the law first, and all of them uniform from step 100 on: make_objective's steps have one clip.
    knots = [[99, 0], [100, 1]]
    law = {"law": "logit_normal", "mean": -0.3, "std": 0.6, "uniform_share": knots}
    turned = make_objective(timestep_sampling=law)._timesteps(list(range(4000)))
    assert turned[:100].tolist() == drawn[0][:100].tolist()
    plain = make_objective()._timesteps(list(range(4000)))
    assert turned[100:].tolist() == plain[100:].tolist()
    # A position has its timestep whatever stands beside it.
    assert int(objective._timesteps([7])[0]) == int(drawn[0][7])


@pytest.mark.parametrize("drawn, timestep", ((0.0, 0), (0.5, 500), (1 - 2**-53, 999)))
def test_logit_normal_timesteps_stay_on_the_schedule(monkeypatch, drawn, timestep):
    monkeypatch.setattr("lavie.training.objective.uniform", lambda *_: drawn)
    objective = make_objective(timestep_sampling="logit_normal")
    assert objective.training_inputs(make_batch([1, 2])).timestep.tolist() == [timestep] * 2


@pytest.mark.parametrize("share", (0.0, 0.3, 1.0))
def test_captions_are_dropped_one_by_one(share):
    objective = make_objective(caption_dropout=share)
    text = torch.cat([objective.training_inputs(make_batch(list(range(i, i + 50)))).text for i in range(0, 500, 50)])
    empty = objective.text_encoder([""])[0]
    dropped = (text == empty).all(-1).all(-1)
    assert dropped.float().mean() == pytest.approx(share, abs=0.06 if 0 < share < 1 else 0)
    if 0 < share < 1:  # an image may lose its caption where the clip keeps its own
        assert 0 < (dropped[:, 0] & ~dropped[:, 1]).float().mean() < share


def test_validation_keeps_captions_and_has_noise_of_its_own():
    objective = make_objective(caption_dropout=1.0)
    batch = make_batch([1, 2])
    inputs = objective.validation_inputs(batch, 400)
    assert inputs.timestep.tolist() == [400, 400]
    assert not torch.equal(inputs.text[0, 0], objective.text_encoder([""])[0])
    assert not torch.equal(inputs.target, objective.training_inputs(batch).target)
    assert torch.equal(inputs.target, objective.validation_inputs(batch, 400).target)


def test_min_snr_weighs_the_loss():
    batch = make_batch([1])
    plain, weighted = make_objective(), make_objective(snr_gamma=0.5)
    inputs = plain.validation_inputs(batch, 100)  # snr 8.5

    def network(sample, timestep, text, num_images):
        return torch.zeros_like(sample)

    ratio = weighted.loss(network, inputs).total / plain.loss(network, inputs).total
    assert float(ratio) == pytest.approx(0.5 / float(plain.schedule.snr(inputs.timestep)), rel=1e-5)


# --- what the later stages are given


def make_stage(stage: str, frames: int = 5, **changes) -> Objective:
    channels = {"interpolation": 24, "vsr": 15}[stage]
    model = {"in_channels": channels, "out_channels": 12, "cross_attention_dim": 16, "num_noise_levels": 20}
    data = {"train": "unused", "frame_stride": 1, "num_frames": frames, "num_images": 0, "height": 8, "width": 8}
    values = {"degradation": {"scale": 2}, "sampling": {"noise_level": 3}, "keyframe_interval": 2}
    return make_objective(stage=stage, model=model, data=data, **(values | changes))


def stage_batch(positions: list[int]) -> dict:
    batch = make_batch(positions)
    low = [np.random.default_rng(100 + p).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8) for p in positions]
    return batch | {"captions": [[row[0]] for row in batch["captions"]], "low_res": torch.from_numpy(np.stack(low))}


def test_interpolation_is_given_clean_key_frames():
    objective = make_stage("interpolation")
    batch = stage_batch([3, 4])
    inputs = objective.training_inputs(batch)
    pixels = batch["pixels"].flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = objective.autoencoder.encode(pixels).unflatten(0, (2, 5)).transpose(1, 2)
    assert torch.equal(inputs.low_res, latents[:, :, [0, 0, 2, 2, 4]])
    assert inputs.noise_level is None


def test_key_frames_are_noised_where_asked_for_and_clean_in_validation():
    clean, noisy = make_stage("interpolation"), make_stage("interpolation", condition_noise_steps=200)
    batch = stage_batch([3, 4])
    expected, got = clean.training_inputs(batch), noisy.training_inputs(batch)
    assert torch.equal(got.sample, expected.sample)
    assert not torch.equal(got.low_res, expected.low_res)
    assert torch.equal(got.low_res[:, :, 0], got.low_res[:, :, 1])  # one noise per key frame, spread with it
    assert torch.equal(noisy.validation_inputs(batch, 10).low_res, expected.low_res)


def test_super_resolution_is_told_the_noise_in_its_condition():
    objective = make_stage("vsr")
    batches = [objective.training_inputs(stage_batch(list(range(i, i + 25)))) for i in range(0, 500, 25)]
    levels = torch.cat([b.noise_level for b in batches])
    assert set(levels.tolist()) == set(range(20))
    batch = stage_batch([3, 4])
    inputs = objective.training_inputs(batch)
    clean = batch["low_res"].permute(0, 4, 1, 2, 3).double() / 127.5 - 1
    share = objective.low_resolution_schedule.alphas_cumprod.double()[inputs.noise_level].view(2, 1, 1, 1, 1)
    noise = (inputs.low_res.double() - share.sqrt() * clean) / (1 - share).sqrt()
    assert abs(float(noise.mean())) < 0.2
    assert abs(float(noise.std()) - 1) < 0.2
    assert objective.validation_inputs(batch, 10).noise_level.tolist() == [3, 3]


@pytest.mark.parametrize("stage", ("interpolation", "vsr"))
def test_conditions_do_not_depend_on_the_batch(stage):
    objective = make_stage(stage, condition_noise_steps=50)
    whole = objective.training_inputs(stage_batch([3, 4, 5, 6]))
    halves = [objective.training_inputs(stage_batch(p)) for p in ([3, 4], [5, 6])]
    assert torch.equal(whole.low_res, torch.cat([h.low_res for h in halves]))
    if stage == "vsr":
        assert torch.equal(whole.noise_level, torch.cat([h.noise_level for h in halves]))
