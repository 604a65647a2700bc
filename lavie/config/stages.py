"""What a stage of the cascade is: its network, what it is given beside the text, and which settings it can use.

The rest of the code asks `STAGES[config.stage]` rather than comparing names. A fourth stage begins here.
"""

from dataclasses import dataclass
from typing import Literal

from .model import PRESETS, UNetConfig
from .names import StageName

Condition = Literal["none", "frames", "key_frames", "low_resolution"]
"""What a network is given beside the text, on channels joined to the noisy latents: nothing; any frames of the clip,
with a mask that says which; the latents of every n-th frame; or the pixels of the low resolution, with noise of a known
level."""


def condition_channels(condition: Condition, latent_channels: int) -> int:
    """Return the input channels of a network that hold a condition, for latents of so many channels."""
    return {"none": 0, "frames": 1 + latent_channels, "key_frames": latent_channels, "low_resolution": 3}[condition]


@dataclass(frozen=True)
class ClipShape:
    """The size and rate of a clip."""

    num_frames: int
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    fps: float
    """Frames per second."""


@dataclass(frozen=True)
class Stage:
    """One stage of the cascade."""

    name: StageName
    title: str
    """What the stage does, in lower case: the heading of a model card."""
    network: UNetConfig
    """The released network."""
    condition: Condition
    """What the released network is given beside the text."""
    autoencoder_stride: int
    """Pixels per latent, along both axes, of the released autoencoder (type diffusers)."""
    autoencoder_float32: bool
    """Whether the released autoencoder samples in float32, because its activations overflow in 16 bits."""
    prediction_type: Literal["epsilon", "v_prediction"]
    """What the released network predicts."""
    joins_images: bool
    """Whether images with captions of their own may join each clip on the frame axis (data.num_images)."""
    released_clip: ClipShape
    """The clip that the released network makes at once (paper, section 4)."""

    @property
    def draws_from_prompt(self) -> bool:
        """Whether a prompt alone is enough to sample the stage, so that validation_prompts and `lavie sample` apply.

        A network of the stage that takes frames draws from a prompt too: then no frame is given.
        """
        return self.condition == "none"

    @property
    def cacheable(self) -> bool:
        """Whether a cache of latents serves the stage: a low resolution is made anew from the pixels of each visit."""
        return self.condition != "low_resolution"

    def given_frames(self, num_frames: int, keyframe_interval: int) -> int:
        """Return how many frames a clip of num_frames is made from; of no meaning to a stage without condition."""
        return (num_frames - 1) // keyframe_interval + 1 if self.condition == "key_frames" else num_frames

    def given_size(self, height: int, width: int, stride: int) -> tuple[int, int]:
        """Return height and width, in pixels, of the frames that a clip is made from; stride: pixels per latent."""
        return (height // stride, width // stride) if self.condition == "low_resolution" else (height, width)

    def require_frames(self, num_frames: int, keyframe_interval: int, key: str) -> None:
        """Raise ValueError, naming the config's `key`, if no clip of this stage has num_frames frames."""
        if self.condition == "key_frames" and (num_frames - 1) % keyframe_interval:
            raise ValueError(
                f"{key} is {num_frames}: with keyframe_interval {keyframe_interval} a clip has "
                f"n * {keyframe_interval} + 1 frames, so that it begins and ends with a key frame"
            )


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        # Stable Diffusion 1.4 with temporal attention in every transformer block: 909,124,100 parameters, to which the
        # released count of 909,124,116 adds the 16 rotary frequencies, constants here.
        Stage(
            name="base",
            title="text to video",
            network=UNetConfig.model_validate(PRESETS["base"]),
            condition="none",
            autoencoder_stride=8,
            autoencoder_float32=False,
            prediction_type="epsilon",
            joins_images=True,
            released_clip=ClipShape(num_frames=16, height=320, width=512, fps=8),
        ),
        # The base network's layers with four channels for the key frames: 909,131,524 parameters.
        Stage(
            name="interpolation",
            title="temporal interpolation",
            network=UNetConfig.model_validate(PRESETS["interpolation"]),
            condition="key_frames",
            autoencoder_stride=8,
            autoencoder_float32=False,
            prediction_type="epsilon",
            joins_images=False,
            released_clip=ClipShape(num_frames=61, height=320, width=512, fps=24),
        ),
        # Stable Diffusion's x4 upscaler with temporal attention and temporal convolutions: 691,036,420 parameters (and
        # 16 rotary frequencies).
        Stage(
            name="vsr",
            title="video super-resolution",
            network=UNetConfig.model_validate(PRESETS["vsr"]),
            condition="low_resolution",
            autoencoder_stride=4,
            autoencoder_float32=True,
            prediction_type="v_prediction",
            joins_images=False,
            released_clip=ClipShape(num_frames=8, height=1280, width=2048, fps=24),
        ),
    )
}
"""The stages by name, in the order in which the cascade runs them."""
