"""A run starts from the weights that its config names, and from nothing that a file only resembles."""

import pytest
import torch

from lavie.config.load import validate
from lavie.config.train import TrainConfig
from lavie.errors import CheckpointError, ConfigError
from lavie.models.start import require_single_files, start_network
from lavie.models.unet import VideoUNet
from tests.cascades import stage_config
from tests.models.ldm_files import flat_unet, ldm_unet, random_values, tiny_network


def config_of(**changes):
    """The config of a run of the tiny network, whose latents have 4 channels."""
    values = stage_config("base").model_dump()
    values |= {"model": tiny_network().model_dump(), "pretrained_model_name_or_path": "unused"}
    values |= {"autoencoder": {"type": "diffusers"}}
    return validate(TrainConfig, values | changes, "test")


@pytest.fixture
def places(tmp_path):
    """A single file with averaged weights, one without, a folder in diffusers' format, a LoRA."""
    plain, average = (dict(flat_unet(seed=seed).state_dict()) for seed in (1, 2))
    torch.save({"state_dict": ldm_unet(plain, tiny_network(), averaged=average)}, tmp_path / "both.ckpt")
    torch.save({"state_dict": ldm_unet(plain, tiny_network())}, tmp_path / "plain.ckpt")
    torch.save({"unet:0:up": torch.zeros(2, 1)}, tmp_path / "lora.pt")
    flat_unet().save_pretrained(tmp_path / "sd/unet")
    return {
        name: str(tmp_path / file)
        for name, file in (("both", "both.ckpt"), ("plain", "plain.ckpt"), ("sd", "sd"), ("lora", "lora.pt"))
    }


def started(config):
    network = random_values(VideoUNet(config.model), 5)
    reports = start_network(network, config)
    return network.conv_out.weight, [type(report).__name__ for report in reports]


def kernel(seed):
    return flat_unet(seed=seed).state_dict()["conv_out.weight"]


def test_weights_come_from_where_the_config_says(places):
    added = {"weights": places["plain"], "original": places["sd"], "scale": 0.25}
    sum_of_two = kernel(0) + 0.25 * (kernel(1) - kernel(0))
    for changes, expected in (
        ({"init_weights": places["plain"]}, kernel(1)),
        ({"init_weights": places["both"]}, kernel(1)),
        ({"init_weights": places["both"], "extract_ema": True}, kernel(2)),
        ({"pretrained_model_name_or_path": places["sd"]}, kernel(0)),
        ({"init_weights": places["sd"], "add_difference": added}, sum_of_two),
        ({"pretrained_model_name_or_path": places["sd"], "add_difference": added | {"original": None}}, sum_of_two),
        ({"init_weights": places["sd"], "add_difference": added | {"scale": 0}}, kernel(0)),
        (
            {"init_weights": places["sd"], "extract_ema": True, "add_difference": added | {"weights": places["both"]}},
            kernel(0) + 0.25 * (kernel(2) - kernel(0)),
        ),
    ):
        weight, reports = started(config_of(**changes))
        assert torch.equal(weight, expected), changes
        assert len(reports) == 1 + ("add_difference" in changes)


def test_averaged_weights_that_no_file_has_are_an_error(places):
    with pytest.raises(CheckpointError, match=r"extract_ema is true, but .*plain.ckpt holds no averaged weights"):
        started(config_of(init_weights=places["plain"], extract_ema=True))
    added = {"weights": places["plain"], "original": places["sd"]}
    with pytest.raises(CheckpointError, match=r"but .*sd/unet or .*plain.ckpt holds no averaged weights"):
        started(config_of(init_weights=places["sd"], extract_ema=True, add_difference=added))


def test_a_difference_needs_two_networks_and_one_to_add_it_to():
    vsr = stage_config("vsr").model_dump()  # whose encoders need no folder
    with pytest.raises(ConfigError, match=r"add_difference.original is null, and so is pretrained_model_name_or_path"):
        validate(TrainConfig, vsr | {"add_difference": {"weights": "a"}}, "test")
    with pytest.raises(ConfigError, match="add_difference needs weights to add to: set init_weights"):
        validate(TrainConfig, vsr | {"add_difference": {"weights": "a", "original": "b"}}, "test")
    with pytest.raises(ConfigError, match=r"add_difference.scale"):
        config_of(add_difference={"weights": "a", "scale": -1})


def test_files_of_something_else_are_refused_before_there_is_a_network(places):
    require_single_files(config_of(init_weights=places["plain"]))
    require_single_files(config_of(init_weights=places["sd"]))
    for changes in (
        {"init_weights": places["lora"]},
        {"init_weights": places["sd"], "add_difference": {"weights": places["lora"]}},
        {"init_weights": places["sd"], "add_difference": {"weights": places["plain"], "original": places["lora"]}},
    ):
        with pytest.raises(CheckpointError, match=r"lora\.pt is a LoRA, which changes a checkpoint and is none"):
            require_single_files(config_of(**changes))
