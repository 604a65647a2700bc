"""The validation loss by hand, and of a held-out set that has no images."""

import pytest
import torch

from lavie.training.validate import QUANTILES, validation_loss
from tests.training.objectives import make_batch, make_objective


def predicts_zero(sample, timestep, text, num_images):
    return torch.zeros_like(sample)


def squares(objective, batches, images: bool) -> list[float]:
    """The mean square of the targets at each timestep, over the frames of clips or over images: of the prediction 0."""
    means = []
    for quantile in QUANTILES:
        targets = [objective.validation_inputs(batch, int(1000 * quantile)).target for batch in batches]
        parts = [target[:, :, 3:] if images else target[:, :, :3] for target in targets]
        means.append(sum(float(part.double().square().mean()) for part in parts) / len(parts))
    return means


def test_it_is_the_mean_over_batches_and_timesteps_with_its_parts():
    objective, batches = make_objective(image_loss_weight=0.5), [make_batch([1, 2]), make_batch([3, 4])]
    losses = validation_loss(predicts_zero, objective, batches)
    video, image = squares(objective, batches, images=False), squares(objective, batches, images=True)
    assert losses["validation_loss_video"] == pytest.approx(sum(video) / 4)
    assert losses["validation_loss_image"] == pytest.approx(sum(image) / 4)
    assert losses["validation_loss"] == pytest.approx(sum(video) / 4 + 0.5 * sum(image) / 4)
    assert losses["validation_loss_t375"] == pytest.approx(video[1] + 0.5 * image[1])


def test_clips_without_images_are_judged_alone():
    """The run trains on images, too; what is held out has none."""
    objective, batches = make_objective(image_loss_weight=0.5), []
    for batch in (make_batch([1, 2]), make_batch([3, 4])):
        clips = {"pixels": batch["pixels"][:, :3], "captions": [row[:1] for row in batch["captions"]]}
        batches.append(batch | clips)
    losses = validation_loss(predicts_zero, objective, batches)
    assert losses["validation_loss"] == pytest.approx(sum(squares(objective, batches, images=False)) / 4)
    assert "validation_loss_image" not in losses
