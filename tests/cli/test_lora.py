"""`lavie lora`, and --lora of the commands that draw."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lavie.errors import CheckpointError, ConfigError
from lavie.inference.cascade import Cascade
from lavie.inference.load import load_pipeline
from lavie.models.lora import load_lora, merge_lora, read_lora
from lavie.models.lora.choice import LoraChoice
from lavie.models.weights import load_network
from tests.cascades import STAGE_MODELS, cascade_folder, pretrained, seal, stage_config
from tests.cli.commands import run_lavie
from tests.models.lora.files import made, made_text, save, save_kohya

__all__ = ["cascade_folder", "pretrained"]


RELEASED = {"up": (320, 1), "down": (1, 320)}
"""The shapes of the numbered layer 0 of Stable Diffusion 1.4: attn1.to_q of the first block."""


@pytest.fixture(scope="module")
def base(cascade_folder):
    """The base stage's checkpoint."""
    return cascade_folder / "base/checkpoint-3"


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    """A LoRA in kohya's layout that changes the base stage a lot, with a text part."""
    layers = made(load_network(base / "unet"), mixed=True)
    return save_kohya(tmp_path_factory.mktemp("lora") / "style.safetensors", layers, made_text(1))


def test_info_tells_what_a_file_is(lora, base, tmp_path):
    out = run_lavie("lora", "info", lora, "--network", base)
    assert "a LoRA in the layout kohya" in out and "reads 24 text features" in out and f"fits {base}" in out
    assert "by LoRA of rank 2, alpha / rank 0.5" in out and "text encoder: 6 weights (6 by LoRA of rank 2" in out
    assert "fits no released network" in run_lavie("lora", "info", lora)
    real = save(tmp_path / "r.safetensors", {f"unet:0:{part}": torch.ones(shape) for part, shape in RELEASED.items()})
    assert "fits Stable Diffusion 1.x, and so LaVie's base and interpolation" in run_lavie("lora", "info", real)
    with pytest.raises(CheckpointError, match="is an embedding of textual inversion"):
        run_lavie("lora", "info", save(tmp_path / "e.safetensors", {"emb_params": torch.ones(1, 768)}))


@pytest.mark.parametrize("layout", ("diffusers", "kohya", "peft"))
def test_convert_keeps_what_it_changes(lora, base, tmp_path, layout):
    out = tmp_path / "out.safetensors" if layout == "kohya" else tmp_path / "out"
    run_lavie("lora", "convert", lora, out, "--format", layout, "--scale", "0.5", "--network", base)
    before, after = read_lora(lora), read_lora(out)
    assert before.unet.keys() == after.unet.keys() and before.text.keys() == after.text.keys()
    for name, change in before.unet.items():
        assert float((0.5 * change.delta() - after.unet[name].delta()).abs().max()) <= 1e-6
    with pytest.raises(ConfigError, match="--overwrite"):
        run_lavie("lora", "convert", lora, out, "--format", layout)


@pytest.mark.slow
def test_sampling_with_a_file_is_sampling_merged_weights(lora, cascade_folder, tmp_path):
    options = ["--prompt", "red", "--frames", "1", "--seed", "3"]
    for name, more in {
        "plain": [],
        "zero": ["--lora", f"{lora}:0"],
        "half": ["--lora", f"{lora}:0.5"],
        "twice": ["--lora", f"{lora}:0.2", "--lora", f"{lora}:0.3", "--lora-text-scale", "0"],
    }.items():
        run_lavie("sample", cascade_folder / "base", "--out", tmp_path / name, *options, *more)
    run_lavie("lora", "merge", cascade_folder / "base", tmp_path / "merged", "--lora", f"{lora}:0.5:0")
    run_lavie("sample", tmp_path / "merged", "--out", tmp_path / "of_merged", *options)
    pixels = {
        path.parent.name: np.asarray(Image.open(path)).astype(int) for path in sorted(tmp_path.glob("*/00000.png"))
    }
    assert np.array_equal(pixels["plain"], pixels["zero"])
    assert abs(pixels["half"] - pixels["plain"]).mean() > 1
    assert abs(pixels["half"] - pixels["twice"]).max() <= 1
    assert np.array_equal(pixels["half"], pixels["of_merged"])
    [told] = json.loads((tmp_path / "half/00000.json").read_text())["loras"]
    assert (told["lora"], told["scale"]) == ("style.safetensors", 0.5)
    assert "loras" not in json.loads((tmp_path / "plain/00000.json").read_text())


def test_merge_writes_the_sums(lora, base, tmp_path):
    run_lavie("lora", "merge", base, tmp_path / "out", "--lora", f"{lora}:0.5:0", "--lora", f"{lora}:-2:0")
    network = load_network(base / "unet")
    load_lora(network, lora, -1.5)
    merge_lora(network)
    merged = load_network(tmp_path / "out/unet").state_dict()
    assert all(float((value - merged[name]).abs().max()) <= 1e-6 for name, value in network.state_dict().items())
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert about["loras"] == ["style.safetensors:0.5:0", "style.safetensors:-2:0"]
    assert "merged in: style.safetensors:0.5:0, style.safetensors:-2:0" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(
        ConfigError, match=r"changes 6 weights of the text encoder, which has no weights: give it as \S+:1:0"
    ):
        run_lavie("lora", "merge", base, tmp_path / "other", "--lora", lora)
    with pytest.raises(ConfigError, match="--lora is missing"):
        run_lavie("lora", "merge", base, tmp_path / "other")


@pytest.fixture
def with_clip(cascade_folder, pretrained, tmp_path):
    """A base stage whose text encoder is CLIP."""
    from lavie.config.load import dump_yaml
    from lavie.models.weights import save_network
    from lavie.testing import tiny_unet
    from tests.cascades import random_network

    model = tiny_unet(**STAGE_MODELS["base"], cross_attention_dim=32)
    config = stage_config(
        "base",
        model=model.model_dump(),
        text_encoder={"type": "clip"},
        pretrained_model_name_or_path=str(pretrained()),
    )
    folder = tmp_path / "clip/checkpoint-3"
    save_network(folder / "unet", model, random_network(model).state_dict())
    (folder / "config.yaml").write_text(dump_yaml(config))
    seal(folder)
    return folder


@pytest.mark.slow
def test_text_encoders_are_merged_with_a_scale_of_their_own(with_clip, tmp_path):
    text = made_text(1)
    lora = save_kohya(tmp_path / "a.safetensors", made(load_network(with_clip / "unet"), "attention"), text)
    plain, _ = load_pipeline(with_clip)
    loaded, _ = load_pipeline(with_clip, loras=[LoraChoice(lora, 0.5, 2.0)])
    run_lavie("lora", "merge", with_clip, tmp_path / "out", "--lora", f"{lora}:0.5:2")
    merged, _ = load_pipeline(tmp_path / "out")
    before = {name.removeprefix("text_model."): value for name, value in plain.text_encoder.model.state_dict().items()}
    for pipeline in (loaded, merged):
        for name, value in pipeline.text_encoder.model.state_dict().items():
            name = name.removeprefix("text_model.")
            layer = text.get(name.removesuffix(".weight")) if name.endswith("weight") else None
            wanted = before[name].double() + (2.0 * layer.delta if layer else 0)
            assert float((value - wanted).abs().max()) <= 1e-6
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, merged.network.state_dict()[name])
    with pytest.raises(ConfigError, match="text encoder, which is not copied"):
        run_lavie("lora", "merge", with_clip, tmp_path / "other", "--lora", lora, "--no-encoders")


@pytest.mark.slow
def test_a_cascade_changes_the_stages_before_super_resolution(lora, cascade_folder, tmp_path):
    layers = made(load_network(cascade_folder / "base/checkpoint-3/unet"), "attention")
    style = save_kohya(tmp_path / "style.safetensors", layers)
    plain = Cascade.from_pretrained(cascade_folder)
    styled = Cascade.from_pretrained(cascade_folder, loras=[f"{style}:0.5"])
    for stage, changed in (("base", True), ("interpolation", True), ("vsr", False)):
        states = [cascade.stages[stage].network.state_dict() for cascade in (plain, styled)]
        assert any(not torch.equal(value, states[1][name]) for name, value in states[0].items()) == changed
        assert (plain.sources[stage] != styled.sources[stage]) == changed

    words = ["--cascade", cascade_folder, "--prompt", "red", "--out", tmp_path / "out", "--stop-after", "base"]
    run_lavie("generate", *words)
    with pytest.raises(ConfigError, match="holds clips of other weights of stage base"):
        run_lavie("generate", *words, "--lora", f"{style}:0.5")
    run_lavie("generate", *words, "--lora", f"{style}:0.5", "--overwrite")
    [entry] = map(json.loads, (tmp_path / "out/prompts.jsonl").read_text().splitlines())
    assert entry["loras"][0]["scale"] == 0.5
    run_lavie("generate", "--cascade", cascade_folder, "--dry-run", "--lora", style)


def test_what_does_not_fit_is_refused_before_weights_are_read(cascade_folder, lora, tmp_path):
    folder = tmp_path / "base/checkpoint-3"
    shutil.copytree(cascade_folder / "base/checkpoint-3", folder)
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load_pipeline(folder, loras=[LoraChoice(tmp_path / "none.safetensors")])
    with pytest.raises(ConfigError, match="there is no --lora"):
        run_lavie("sample", folder, "--out", tmp_path, "--prompt", "red", "--lora-text-scale", "1")
    with pytest.raises(CheckpointError, match="the network has it as"):
        run_lavie("lora", "merge", cascade_folder / "vsr", tmp_path / "out", "--lora", f"{lora}:1:0")
