"""What trains of a run's network: a part of its weights, or adapters that are attached to them."""

import torch

from ..config.train import TrainConfig
from ..models.lora.adapter import add_lora
from ..models.trainable import set_trainable
from ..models.unet import VideoUNet


def set_trained_part(network: VideoUNet, config: TrainConfig) -> None:
    """Freeze what does not train in a run; where adapters train, attach them, with the run's draw of A and with B = 0.

    Args:
        network: the run's, whole; may be on the meta device.
        config: the run.

    Raises:
        ConfigError: the adapters do not fit the network.
    """
    if config.trainable == "lora":
        lora = config.lora
        add_lora(network, lora.targets, lora.rank, lora.alpha, lora.dropout, seed=config.seed)
    else:
        set_trainable(network, config.trainable)


def require_adapters_fit(config: TrainConfig) -> None:
    """Raise ConfigError if the adapters that a run is to train do not fit its network; nothing is read or drawn."""
    if config.trainable == "lora":
        with torch.device("meta"):
            set_trained_part(VideoUNet(config.model), config)


def lora_scale(config: TrainConfig) -> float:
    """Return alpha / r of a run's adapters."""
    return (config.lora.alpha or config.lora.rank) / config.lora.rank
