"""The model card of an exported folder tells how the network was trained, and its usage runs as it is written."""

import os
import re
import runpy

import pytest
import yaml
from PIL import Image

from lavie.config.load import load_config
from lavie.inference.exchange.model_card import model_card
from tests.inference.exchange.exports import STAGES

ABOUT = {
    "step": 7,
    "lavie": "1",
    "parameters": 1,
    "weights": "ema",
    "source": "fox",
    "started_from": "sd14",
    "data": ("foxes", "hens"),
}


def test_the_card_tells_what_the_run_was_made_from_and_shows_a_prompt_of_its_own():
    card = model_card(load_config("configs/smoke/base.yaml", ["validation_prompts=[a fox's den]"]), ABOUT)
    assert "| made from | run fox, which started from sd14 |" in card
    assert "| trained on | foxes, hens |" in card
    assert """generate(pipeline, ["a fox's den"], "samples",""" in card
    assert """--prompt 'a fox'"'"'s den' --out videos""" in card
    card = model_card(load_config("configs/smoke/vsr.yaml"), ABOUT | {"started_from": None})
    assert "which started from fresh weights |" in card
    assert "red circle" not in card


def test_the_card_names_what_other_libraries_open():
    config = load_config("configs/smoke/base.yaml")
    assert "transformers open\n`scheduler/`; the network in `unet/` is LaVie's own" in model_card(config, ABOUT)
    assert "open\n`scheduler/` and `vae/`; the" in model_card(config, ABOUT, ["vae"])


def test_the_card_names_every_size_of_training():
    sizes = "[{num_frames: 16, height: 24, width: 24}, {num_frames: 4, height: 48, width: 24}]"
    config = load_config("configs/smoke/base.yaml", [f"data.buckets={sizes}"])
    card = model_card(config, ABOUT)
    assert "| clips | 16 frames of 24 x 24 or 4 frames of 48 x 24, frame stride 2, joined by 1 images |" in card


@pytest.mark.parametrize(
    "start, name, licence",
    (
        ("weights/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-4", "creativeml-openrail-m"),
        ("stable-diffusion-x4-upscaler", "stabilityai/stable-diffusion-x4-upscaler", "openrail++"),
        ("weights/lavie_base.pt", "Vchitect/LaVie", "other"),
        ("runs/fox", None, "other"),
        (None, None, "other"),
    ),
)
def test_the_head_is_the_hubs(start, name, licence):
    card = model_card(load_config("configs/smoke/base.yaml"), ABOUT | {"started_from": start}, portable=True)
    head = yaml.safe_load(card.removeprefix("---\n").split("---\n")[0])
    assert (head.get("base_model"), head["license"]) == (name, licence)
    assert (head["library_name"], head["pipeline_tag"]) == ("diffusers", "text-to-video")


@pytest.mark.parametrize("stage", STAGES)
def test_the_usage_of_the_card_runs(exported, stage, monkeypatch):
    card = (exported / stage / "README.md").read_text()
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(head)["library_name"] == "diffusers"
    assert "| training steps | 3 |" in body
    assert "| weights | averaged over training" in body
    own, portable = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    monkeypatch.chdir(exported / stage)
    (exported / "usage.py").write_text(own)
    done = runpy.run_path(str(exported / "usage.py"))
    (exported / "portable.py").write_text(portable)
    assert len(runpy.run_path(str(exported / "portable.py"))["clip"]) == (3 if stage == "base" else 9)
    assert Image.open("clip.gif").n_frames > 1
    if stage == "base":
        assert "00000.mp4" in os.listdir("samples")
    else:
        assert done["clip"].shape == (9, 16, 24, 3)
        assert any(name.endswith(".mp4") for name in os.listdir())


@pytest.mark.parametrize(
    "stage, keys",
    (
        ("base", {"num_inference_steps", "guidance_scale", "scheduler", "negative_prompt"}),
        ("interpolation", {"num_inference_steps", "guidance_scale", "scheduler", "negative_prompt"}),
        ("vsr", {"num_inference_steps", "guidance_scale", "scheduler", "negative_prompt", "noise_level"}),
    ),
)
def test_the_card_tells_how_the_network_samples(stage, keys):
    changes = ["sampling.num_inference_steps=17", "sampling.guidance_scale=3.5", "sampling.scheduler=euler"]
    card = model_card(load_config(f"configs/smoke/{stage}.yaml", changes), ABOUT)
    told = yaml.safe_load("\n".join(line for line in card.splitlines() if re.match(r"    \w+: ", line)))
    assert told.keys() == keys
    assert (told["num_inference_steps"], told["guidance_scale"], told["scheduler"]) == (17, 3.5, "euler")
