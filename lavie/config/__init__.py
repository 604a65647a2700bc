"""The configuration of a run: every option, typed and documented, and how it is read from YAML and overrides."""

from .load import load_config
from .train import TrainConfig

__all__ = ["TrainConfig", "load_config"]
