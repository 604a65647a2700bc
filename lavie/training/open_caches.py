"""The caches that a run reads, each opened only if it was made for this run's encoders, pixels and sizes."""

from collections.abc import Mapping
from typing import Any

from ..config.data import DataConfig
from ..config.train import TrainConfig
from ..data.cache.cache import Cache
from ..models.identity import encoder_identity

PIXELS = 1
"""Version of decoding, scaling and cutting: another one means other pixels out of the same file and cut."""


def open_caches(config: TrainConfig) -> dict[str, Cache] | None:
    """Return the cache of each size of a run, by the size's name; None if the run has no data.cache.

    Raises:
        DataError: the cache was made for other encoders, pixels or sizes.
        CheckpointError: a folder of the pretrained encoders is missing.
    """
    if config.data.cache is None:
        return None
    encoders = encoder_identity(config)
    caches = {}
    for size in config.data.sizes:
        data = config.data.of_size(size)
        caches[size.name] = Cache(config.data.cache, data, made_with(data, encoders))
    return caches


def made_with(data: DataConfig, encoders: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that an entry depends on beside its sample and cut, by the key, folder or version that decides it.

    Args:
        data: the configuration of one size.
        encoders: what the encoders are, as `encoder_identity` returns it.
    """
    names = ["num_frames", "height", "width", "fps", "frame_stride", "crop"]
    if data.resampler != "pillow-1":
        names.append("resampler")  # caches of pillow-1 were made before there was another
    return {f"data.{name}": getattr(data, name) for name in names} | {"pixels": PIXELS} | dict(encoders)
