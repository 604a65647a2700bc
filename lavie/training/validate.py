"""The validation loss: held-out clips at fixed noise and fixed timesteps, so that runs and steps compare."""

import torch

from ..data.feed.batches import Batch
from ..distributed import sum_over_ranks, world_size
from ..models.unet import VideoUNet
from .objective import Objective

QUANTILES = (0.125, 0.375, 0.625, 0.875)
"""Shares of the noise schedule at which the loss is taken, 0 to 1: the middles of its quarters."""


@torch.no_grad()
def validation_loss(network: VideoUNet, objective: Objective, batches: list[Batch]) -> dict[str, float]:
    """Return the mean loss over all ranks' batches. Collective.

    Batches without images, of a held-out set that has none, are judged by their clips alone.

    Args:
        network: the network, whole on every rank.
        objective: gives inputs and losses.
        batches: this rank's; every rank has the same number of them, all with images or all without.

    Returns:
        "validation_loss_t<timestep>" for each of QUANTILES, and their mean as "validation_loss"; where there are
        images, the means of its two parts too, as "validation_loss_video" and "validation_loss_image".
    """
    timesteps = [int(q * objective.schedule.num_train_timesteps) for q in QUANTILES]
    sums = torch.zeros(len(timesteps), 3, dtype=torch.float64)
    for batch in batches:
        for i, timestep in enumerate(timesteps):
            loss = objective.loss(network, objective.validation_inputs(batch, timestep))
            sums[i] += torch.stack(loss).double().cpu()

    # All ranks have as many batches.
    means = sum_over_ranks(sums.to(objective.device)).cpu() / (world_size() * len(batches))
    total, video, image = means.mean(0).tolist()
    losses = {"validation_loss": total}
    if any(len(row) > 1 for batch in batches for row in batch["captions"]):
        losses |= {"validation_loss_video": video, "validation_loss_image": image}
    by_timestep = {f"validation_loss_t{t}": loss for t, loss in zip(timesteps, means[:, 0].tolist(), strict=True)}
    return losses | by_timestep
