"""What each stage is, and what its clips are made from."""

import pytest

from lavie.config.model import PRESETS, UNetConfig
from lavie.config.stages import STAGES, condition_channels


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_the_released_network_takes_the_condition(stage):
    assert stage.network == UNetConfig(**PRESETS[stage.name])
    channels = stage.network.out_channels
    assert stage.network.in_channels == channels + condition_channels(stage.condition, channels)
    assert bool(stage.network.num_noise_levels) == (stage.condition == "low_resolution")
    stage.require_frames(stage.released_clip.num_frames, 4, "data.num_frames")


def test_what_a_clip_is_made_from():
    assert STAGES["interpolation"].given_frames(61, 4) == 16
    assert STAGES["vsr"].given_frames(8, 4) == 8
    assert STAGES["interpolation"].given_size(320, 512, 8) == (320, 512)
    assert STAGES["vsr"].given_size(1280, 2048, 4) == (320, 512)
    with pytest.raises(ValueError, match=r"data.num_frames is 60: with keyframe_interval 4 a clip has n \* 4 \+ 1"):
        STAGES["interpolation"].require_frames(60, 4, "data.num_frames")
