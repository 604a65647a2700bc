"""The weights that the adapters of a run change, which its checkpoints name and do not hold."""

from pathlib import Path

from ..config.load import load_config
from ..config.train import TrainConfig
from ..distributed import broadcast_object, is_main
from ..models.lora.adapter import base_state
from ..models.lora.trained import Base, base_path, identity, read_base, require_base, require_base_there
from ..models.unet import VideoUNet
from ..run_folder import RUN_CONFIG


def with_base(config: TrainConfig, checkpoint: Path | None = None) -> TrainConfig:
    """Return the config of a run whose init_weights is the very folder or file that its adapters change.

    A run's folder stands for its newest checkpoint, which may be another one when the run of adapters goes on. So that
    goes on with the base that its checkpoint names, unless its config now names another place.

    Args:
        config: the run.
        checkpoint: which it goes on from, if it does.

    Raises:
        CheckpointError: the base is gone.
    """
    if config.trainable != "lora":
        return config
    assert config.init_weights is not None, "TrainConfig refuses adapters without them"
    path = base_path(config.init_weights)
    if checkpoint and load_config(checkpoint / RUN_CONFIG).init_weights == config.init_weights:
        base = read_base(checkpoint)
        require_base_there(checkpoint, base)
        path = Path(base.path)
    return config.model_copy(update={"init_weights": str(path)})


def base_of(network: VideoUNet, config: TrainConfig, checkpoint: Path | None) -> Base | None:
    """Return the base of a run's adapters; None for a run that trains none. Collective.

    Args:
        network: the run's, whole on every rank, as it begins.
        config: the run, as `with_base` returned it.
        checkpoint: which it goes on from, if it does.

    Raises:
        CheckpointError: the checkpoint's adapters are of other weights.
    """
    if config.trainable != "lora":
        return None
    found: str = broadcast_object(identity(base_state(network)) if is_main() else None)
    path = str(config.init_weights)
    if checkpoint:
        require_base(checkpoint, read_base(checkpoint), found, path)
    return Base(path, found)
