"""The names of stages and samplers: types alone, so that the command line starts without the rest of the config."""

from typing import Literal

StageName = Literal["base", "interpolation", "vsr"]
"""The stages of the cascade, in their order."""
SamplerName = Literal["ddim", "ddpm", "euler", "dpm++", "unipc"]
"""What walks from noise to a clip."""
