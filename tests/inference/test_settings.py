"""Settings come from an override, else from the run, else from the released code; samplers take all of them."""

import pytest

from lavie.config.load import load_config
from lavie.errors import ConfigError
from lavie.inference.load import load_stage
from lavie.inference.sampler import Denoising
from lavie.inference.settings import SETTINGS, BaseSettings, VsrSettings, arguments, run_defaults
from tests.cascades import stage_config


def test_the_runs_negative_prompt_is_the_default():
    config = load_config("configs/smoke/base.yaml", ["sampling.negative_prompt=grey"])
    assert BaseSettings.of(config).negative_prompt == "grey"
    assert BaseSettings.of(config, negative_prompt="").negative_prompt == ""


def test_a_run_alone_samples_with_its_seed_size_and_rate():
    config = stage_config("base", seed=7)
    settings = BaseSettings.of(config, num_frames=None, width=32)
    assert (settings.num_frames, settings.height, settings.width, settings.fps) == (3, 16, 32, 8)
    assert (settings.seed, BaseSettings.of(config, seed=1).seed) == (7, 1)
    with pytest.raises(ConfigError, match="num_frames: wanted 1 or more"):
        BaseSettings.of(config, num_frames=0)


def test_the_released_settings_hold_where_the_run_has_no_section(without_sampling):
    config = load_config(without_sampling / "vsr/config.yaml")
    assert run_defaults(config) == {"window": 9, "overlap": 2}
    assert VsrSettings.of(config).negative_prompt == "blur, worst quality"
    assert run_defaults(stage_config("vsr", sampling={"noise_level": 5}))["negative_prompt"] == ""


@pytest.mark.parametrize("stage", SETTINGS)
def test_arguments_are_those_of_a_call(cascade_folder, stage):
    _, config = load_stage(cascade_folder / stage)
    settings = SETTINGS[stage].of(config)
    assert Denoising.of(SETTINGS[stage](), arguments(settings)).settings.model_dump(
        exclude={"fps", "prompt_suffix"}
    ) == settings.model_dump(exclude={"fps", "prompt_suffix"})
    with pytest.raises(TypeError, match="unexpected keyword arguments fps, guidence_scale"):
        Denoising.of(SETTINGS[stage](), {"guidence_scale": 2, "fps": 8, "progress": None})
