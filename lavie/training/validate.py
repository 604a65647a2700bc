"""The validation loss: held-out clips at fixed noise and fixed timesteps, so that runs and steps compare."""

import torch
from torch import nn

from ..config.train import TrainConfig
from ..data.feed.batches import Batch
from ..distributed import sum_over_ranks, world_size
from ..models.backends import set_backends
from ..models.lora.adapter import is_adapter, merged_state, plain_name
from ..models.unet import VideoUNet
from .ema import EMA, gathered_weights
from .objective import Objective
from .partition import local_slice
from .precision import training_dtype
from .trained_part import set_trained_part

QUANTILES = (0.125, 0.375, 0.625, 0.875)
"""Shares of the noise schedule at which the loss is taken, 0 to 1: the middles of its quarters."""


@torch.no_grad()
def averaged_network(module: nn.Module, ema: EMA | None, config: TrainConfig, device: torch.device) -> VideoUNet:
    """Return a second network with the averaged weights, whole on every rank, in the dtype of training. Collective.

    Weights that do not train are those of the training network where that holds them whole, not copies: with
    trainable=temporal the second network takes a twentieth of the memory. Nothing of the training network changes.
    Adapters are merged: it is a plain network.

    Args:
        module: the one that trains, a DeepSpeed engine's.
        ema: the average, or None for the present weights.
        config: the run.
        device: where the network will run.
    """
    network = whole_network(module, ema, config, device)
    if config.trainable == "lora":
        merged = merged_state(network)
        with torch.device("meta"):
            network = VideoUNet(config.model)
        network.load_state_dict(merged, assign=True)
    set_backends(network, kernels=config.kernels, attention=config.attention)
    return network.requires_grad_(False).eval()


@torch.no_grad()
def whole_network(module: nn.Module, ema: EMA | None, config: TrainConfig, device: torch.device) -> VideoUNet:
    """Return what `averaged_network` does, with the adapters, if the run trains these, beside its weights. Collective.

    Adapters stay in float32, so that a sum with them is rounded once.
    """
    # Built on the meta device: its random start is never drawn.
    with torch.device("meta"):
        network = VideoUNet(config.model)
        set_trained_part(network, config)
    weights = {}
    live = {plain_name(name): (name, parameter) for name, parameter in module.named_parameters()}
    for plain, weight in gathered_weights(module, ema):
        name, parameter = live[plain]
        shared = not parameter.requires_grad and local_slice(parameter).replicated
        dtype = torch.float32 if is_adapter(plain) else training_dtype(config)
        weights[name] = parameter.detach() if shared else weight.to(device, dtype)
    network.load_state_dict(weights, assign=True)
    return network


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
