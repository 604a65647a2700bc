"""A base network that takes frames: what it is given in training, where it starts, and that ranks agree."""

import numpy as np
import pytest
import torch

from lavie.inference.generate import validation_sampler
from lavie.models.autoencoder import KLAutoencoder
from lavie.testing import LOSS_RTOL, run_distributed
from tests.training.objectives import make_batch, make_objective
from tests.training.runs import MODEL, deepspeed_json, losses, make_config, records, train, weight_hashes, weights

POSITIONS = list(range(100))
MASK = slice(0, 1)


def objective(**changes):
    model = {"in_channels": 25, "out_channels": 12, "cross_attention_dim": 16}
    return make_objective(condition="frames", model=model, **changes)


def test_given_frames_are_those_of_the_clip_and_others_are_grey():
    made = objective()
    batch = make_batch(POSITIONS)
    low_res = made.training_inputs(batch).low_res
    pixels = batch["pixels"].flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = made.autoencoder.encode(pixels).unflatten(0, (100, 5)).transpose(1, 2)
    given = low_res[:, MASK] == 0
    assert low_res.shape == (100, 13, 5, 4, 4)
    expected = torch.where(given, latents, made.autoencoder.encode(torch.zeros(1, 3, 8, 8))[0][:, None])
    torch.testing.assert_close(low_res[:, 1:], expected, rtol=0, atol=1e-6)
    # Of the clip's frames some are given, of the images none.
    share = given[:, 0, :3].float().mean()
    assert 0.3 < share < 0.7
    assert not given[:, 0, 3:].any()


def test_images_without_a_clip_are_never_given():
    """They are what adapters learn from (data.images_alone)."""
    data = {"train": "unused", "fps": 8, "num_frames": 3, "height": 8, "width": 8}
    made = objective(data=data | {"images_alone": True, "num_images": 5})
    batch = make_batch(POSITIONS)
    batch["captions"] = [[f"image {i}" for i in range(5)] for _ in POSITIONS]
    inputs = made.training_inputs(batch)
    assert inputs.low_res.shape == (100, 13, 5, 4, 4) and inputs.text.shape[1] == 6
    assert (inputs.low_res[:, MASK] == 1).all()


def test_the_noise_and_the_target_are_those_of_a_network_without_frames():
    """The loss is on the noise of all frames, the given ones too."""
    batch = make_batch([3, 4])
    with_frames, without = objective().training_inputs(batch), make_objective().training_inputs(batch)
    for name in ("sample", "timestep", "text", "target"):
        assert torch.equal(getattr(with_frames, name), getattr(without, name)), name


def test_what_is_given_depends_on_seed_and_position_alone():
    made = objective(condition_noise_steps=200)
    whole = made.training_inputs(make_batch([3, 4, 5, 6])).low_res
    halves = [made.training_inputs(make_batch(positions)).low_res for positions in ([3, 4], [5, 6])]
    assert torch.equal(whole, torch.cat(halves))
    masks = [objective(seed=seed).training_inputs(make_batch(POSITIONS)).low_res[:, MASK] for seed in (0, 1)]
    assert not torch.equal(*masks)


def test_given_frames_are_noised_where_asked_for_and_clean_in_validation():
    clean, noisy = objective(), objective(condition_noise_steps=200)
    batch = make_batch(POSITIONS)
    expected, got = clean.training_inputs(batch).low_res, noisy.training_inputs(batch).low_res
    given = (expected[:, MASK] == 0).expand_as(expected[:, 1:])
    assert torch.equal(got[:, MASK], expected[:, MASK])
    assert torch.equal(got[:, 1:][~given], expected[:, 1:][~given])
    assert (got[:, 1:] != expected[:, 1:])[given].float().mean() > 0.99
    held_out = [each.validation_inputs(batch, 10).low_res for each in (clean, noisy)]
    assert torch.equal(*held_out)
    assert not torch.equal(held_out[0][:, MASK], expected[:, MASK])


def test_frames_that_are_not_given_are_encoded_once_for_each_size(make_vae):
    made = objective()
    vae = make_vae(0.25).eval()
    made.autoencoder = KLAutoencoder(vae, 0.25, 8)
    calls, encode = [], vae.encode
    vae.encode = lambda x: calls.append(tuple(x.shape)) or encode(x)
    latents = torch.zeros(1, 4, 3, 4, 6)
    first, again = made._empty_frame(latents), made._empty_frame(latents)
    assert calls == [(1, 3, 32, 48)] and first is again
    with torch.no_grad():
        expected = encode(torch.zeros(1, 3, 32, 48)).latent_dist.mean[0] * 0.25
    assert torch.equal(first, expected)
    assert first.abs().max() > 1e-3  # grey pixels are no zeros to a learned autoencoder


# --- runs

FRAMES = {"condition": "frames", "model": MODEL | {"in_channels": 7}, "condition_noise_steps": 100}


def train_and_draw(config, settings):
    """Train a run on this rank that draws its validation prompts."""
    return train(config, settings, validation_sampler(config))


@pytest.mark.slow
def test_it_starts_from_base_weights_and_any_number_of_ranks_gives_the_same(rendered, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    base = make_config(rendered, tmp_path / "base", max_train_steps=1)
    run_distributed(train, 1, base, settings)
    common = FRAMES | {"init_weights": base.output_dir, "max_train_steps": 4, "checkpointing_steps": 2}

    # Validation draws from text alone, and the held-out loss has masks of its own, the same for each run.
    told = {
        "validation_prompts": ("a red circle",),
        "validation_steps": 4,
        "validation_batches": 1,
        "sampling": {"num_inference_steps": 2},
        "data": {"validation": str(rendered / "validation")},
    }
    two = make_config(rendered, tmp_path / "two", **common | told)
    run_distributed(train_and_draw, 2, two, settings)
    assert (tmp_path / "two/samples/step-000004/00000.mp4").is_file()
    start, end = weights(base, 1)["conv_in.weight"], weights(two, 4)["conv_in.weight"]
    assert end.shape[1] == 7
    assert (end[:, :3] - start).abs().max() < 0.1
    assert end[:, 3:].any()
    assert [r["step"] for r in records(two) if "validation_loss" in r] == [4]

    # One rank under another stage has the same losses.
    one = make_config(rendered, tmp_path / "one", **common | {"train_batch_size": 4})
    run_distributed(train, 1, one, deepspeed_json(tmp_path, 2))
    assert losses(one) == pytest.approx(losses(two), rel=10 * LOSS_RTOL)

    # A run that stopped goes on as if it had not.
    stopped = make_config(rendered, tmp_path / "stopped", **common)
    run_distributed(train, 2, stopped.model_copy(update={"max_train_steps": 2}), settings)
    resumed = stopped.model_copy(update={"resume_from_checkpoint": "latest"})
    run_distributed(train, 2, resumed, settings)
    assert losses(resumed) == losses(two)
    assert weight_hashes(resumed, 4) == weight_hashes(two, 4)


def test_positions_decide_over_many_steps():
    """The masks of a run of two ranks are those of one, step by step."""
    made = objective()
    alone = [made.training_inputs(make_batch([p])).low_res[:, MASK] for p in range(8)]
    ranks = [made.training_inputs(make_batch([p, p + 1])).low_res[:, MASK] for p in range(0, 8, 2)]
    assert np.array_equal(torch.cat(alone), torch.cat(ranks))
