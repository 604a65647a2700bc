"""What a run asks of the machine that it starts on: packages, and what the device computes in and with."""

import torch

from ..config.train import TrainConfig
from ..errors import LavieError
from ..gpus import require_visible_gpus
from ..models.backends import require_backends
from .compiled import require_compiler
from .optim import require_optimizer
from .precision import require_dtype
from .writers import require_writers


def require_packages(config: TrainConfig) -> None:
    """Check that what the keys of a run name is installed here.

    Raises:
        ConfigError: a package of `optimizer` or `report_to` is missing.
        KernelError: a package of `kernels` or `attention` is missing.
    """
    require_optimizer(config)
    require_backends(config.kernels, config.attention, None)
    require_writers(config)


def require_device(config: TrainConfig, device: torch.device) -> None:
    """Check that a device can do what a run asks of it.

    Raises:
        ConfigError: it does not compute in the dtype of `mixed_precision`, or what `compile` needs is missing.
        KernelError: `kernels` or `attention` cannot run on it.
    """
    require_dtype(config, device)
    require_compiler(config, device)
    require_backends(config.kernels, config.attention, device)


def machine_lines(config: TrainConfig) -> list[str]:
    """Return what a start on this machine would say of its device: nothing, or one line where there is no GPU.

    A plan may be made where there is no GPU for a run that needs one, so what lacks here then ends nothing.

    Raises:
        LavieError: as the run would, at a package that is missing, or at a GPU that cannot do what the run asks.
    """
    require_packages(config)
    if torch.cuda.is_available():
        require_device(config, torch.device("cuda"))
        return []
    try:
        require_visible_gpus()
    except LavieError as error:
        return [f"a run would not start here: {error}"]
    try:
        require_device(config, torch.device("cpu"))
    except LavieError as error:
        return [f"no GPU is here, and without one the run would not start: {error}"]
    return []
