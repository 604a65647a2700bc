"""The validation loss: held-out clips at fixed noise and fixed timesteps, so that runs and steps compare."""

import torch

from ..data.feed.batches import Batch
from ..distributed import sum_over_ranks
from ..models.unet import VideoUNet
from .objective import Objective

QUANTILES = (0.125, 0.375, 0.625, 0.875)
"""Shares of the noise schedule at which the loss is taken, 0 to 1: the middles of its quarters."""


@torch.no_grad()
def validation_loss(network: VideoUNet, objective: Objective, batches: list[Batch]) -> dict[str, float]:
    """Return the mean loss over all ranks' batches. Collective.

    Args:
        network: the network, whole on every rank.
        objective: gives inputs and losses.
        batches: this rank's; every rank has the same number of them.

    Returns:
        "validation_loss_t<timestep>" for each of QUANTILES, and their mean as "validation_loss".
    """
    timesteps = [int(q * objective.schedule.num_train_timesteps) for q in QUANTILES]
    sums = torch.zeros(len(timesteps) + 1, dtype=torch.float64)
    for batch in batches:
        for i, timestep in enumerate(timesteps):
            sums[i] += objective.loss(network, objective.validation_inputs(batch, timestep)).total.item()
        sums[-1] += 1

    # The last sum is the number of batches.
    sums = sum_over_ranks(sums.to(objective.device)).cpu()
    losses = (sums[:-1] / sums[-1]).tolist()
    by_timestep = {f"validation_loss_t{t}": loss for t, loss in zip(timesteps, losses, strict=True)}
    return {"validation_loss": sum(losses) / len(losses), **by_timestep}
