"""The joint loss weighs clip and images as the paper does, and min-SNR as its paper does."""

import pytest
import torch

from lavie.diffusion.loss import joint_loss, min_snr_weight
from lavie.diffusion.schedule import NoiseSchedule
from lavie.testing import TOLERANCES
from tests.diffusion.inverse import predict_x0


def pair(frames, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, frames, 4, 5, generator=g).to(dtype) for _ in range(2)]


def test_means_over_their_own_frames():
    output, target = pair(7)
    loss = joint_loss(output, target, num_images=3, image_loss_weight=0.5)
    video = torch.nn.functional.mse_loss(output[:, :, :4], target[:, :, :4])
    image = torch.nn.functional.mse_loss(output[:, :, 4:], target[:, :, 4:])
    for actual, expected in zip(loss, (video + 0.5 * image, video, image), strict=True):
        assert float(actual) == pytest.approx(float(expected), rel=TOLERANCES[torch.float32])


def test_a_part_without_frames_is_zero():
    output, target = pair(3)
    mean = float(torch.nn.functional.mse_loss(output, target))
    clips = joint_loss(output, target, num_images=0, image_loss_weight=2)
    assert clips.image == 0
    assert float(clips.total) == pytest.approx(mean)
    assert clips.video == clips.total
    images = joint_loss(output, target, num_images=3, image_loss_weight=2)
    assert images.video == 0
    assert float(images.total) == pytest.approx(2 * mean)


def test_rows_are_weighted():
    output, target = pair(3)
    weight = torch.tensor([0.25, 0.0])
    loss = joint_loss(output, target, num_images=1, image_loss_weight=1, weight=weight)
    row = joint_loss(output[:1], target[:1], num_images=1, image_loss_weight=1)
    assert float(loss.total) == pytest.approx(0.25 * float(row.total) / 2)


def test_low_precision_is_summed_in_float32():
    output, target = pair(3, torch.bfloat16)
    loss = joint_loss(output, target, num_images=1, image_loss_weight=1)
    exact = joint_loss(output.double(), target.double(), num_images=1, image_loss_weight=1)
    assert loss.total.dtype == torch.float32
    assert float(loss.total) == pytest.approx(float(exact.total), rel=TOLERANCES[torch.float32])


def test_gradient_reaches_every_frame():
    output, target = pair(3)
    output.requires_grad_()
    joint_loss(output, target, num_images=1, image_loss_weight=1).total.backward()
    expected = 2 * (output - target).detach() / torch.tensor([2, 2, 1]).reshape(1, 1, 3, 1, 1) / (2 * 3 * 4 * 5)
    assert torch.allclose(output.grad, expected, rtol=1e-4)


def test_refuses_what_does_not_fit():
    output, target = pair(3)
    with pytest.raises(ValueError, match="num_images is 4"):
        joint_loss(output, target, num_images=4, image_loss_weight=1)
    with pytest.raises(ValueError, match="wanted one"):
        joint_loss(output, target[:, :, :2], num_images=1, image_loss_weight=1)


@pytest.mark.parametrize("prediction_type", ("epsilon", "v_prediction"))
def test_min_snr_is_the_clamped_loss_on_x0(prediction_type):
    schedule = NoiseSchedule(prediction_type)
    t = torch.tensor([0, 10, 300, 999])
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, 50, generator=g, dtype=torch.float64) for _ in range(2))
    target = schedule.target(x0, noise, t)
    output = target + 0.1 * torch.randn(4, 50, generator=g, dtype=torch.float64)
    on_x0 = (predict_x0(schedule, schedule.add_noise(x0, noise, t), output, t) - x0).square().mean(1)
    snr = schedule.snr(t).double()
    weighted = min_snr_weight(snr, 5, prediction_type) * (output - target).square().mean(1)
    assert torch.allclose(weighted, snr.clamp(max=5) * on_x0, rtol=TOLERANCES[torch.float32])


def test_min_snr_is_finite_without_signal():
    snr = NoiseSchedule("v_prediction", rescale_betas_zero_snr=True).snr(torch.tensor([0, 999]))
    weight = min_snr_weight(snr, 5, "v_prediction")
    assert weight.isfinite().all()
    assert weight[1] == 0
