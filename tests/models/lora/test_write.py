"""What is written is read back: here, by diffusers and by peft, with alpha = r in every layer."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lavie.errors import CheckpointError, ConfigError
from lavie.models.lora import add_lora, load_lora, lora_of, merge_lora, read_lora, write_lora
from lavie.models.weights import inflate
from lavie.testing import tiny_unet
from tests.models.lora.files import made, made_text, save, save_kohya

READERS = ("diffusers", "kohya", "peft")


@pytest.fixture
def source(network, tmp_path):
    """A LoRA of ranks 2 to 4 and of alphas that are not the ranks."""
    return read_lora(save_kohya(tmp_path / "source.safetensors", made(network, mixed=True), made_text()), network)


def place(tmp_path, layout):
    """Where a layout goes."""
    return tmp_path / ("out.safetensors" if layout == "kohya" else "out")


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("scale", (1.0, -0.5))
def test_read_back_here(network, source, tmp_path, layout, scale):
    write_lora(source, place(tmp_path, layout), layout, scale=scale)
    back = read_lora(place(tmp_path, layout), network)
    assert {change.multiplier for change in (*back.unet.values(), *back.text.values())} == {1.0}
    for ours, theirs in ((source.unet, back.unet), (source.text, back.text)):
        assert ours.keys() == theirs.keys()
        for name, change in ours.items():
            assert float((scale * change.delta() - theirs[name].delta()).abs().max()) <= 1e-6, name


@pytest.mark.parametrize("layout", READERS)
def test_alpha_is_the_rank_however_a_reader_finds_it(network, source, tmp_path, layout):
    """One rank for all layers: the largest."""
    for path in write_lora(source, place(tmp_path, layout), layout):
        if path.suffix == ".json":
            values = json.loads(path.read_text())
            assert values["r"] == values["lora_alpha"] == 4 and "alpha_pattern" not in values
            continue
        for key, value in load_file(path).items():
            assert value.dtype == torch.float32
            assert value == 4 if key.endswith("alpha") else 4 in value.shape[:2]
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata().get("lora_adapter_metadata", "{}"))
        assert all(
            said[f"{part}.{key}"] == 4 for part in ("unet", "text_encoder") for key in ("r", "lora_alpha") if said
        )


@pytest.mark.parametrize("layout", READERS)
def test_read_back_by_diffusers_and_peft(make_network, make_2d, source, tmp_path, layout):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    from transformers import CLIPTextConfig, CLIPTextModel

    flat, network = make_2d(tiny_unet()), make_network(tiny_unet())
    inflate(network, flat.state_dict())
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=60)
    text = CLIPTextModel(CLIPTextConfig(**sizes))
    text_before = {name: value.clone() for name, value in text.state_dict().items()}
    load_lora(network, source)
    merge_lora(network)

    out = place(tmp_path, layout)
    write_lora(source, out, layout)
    if layout == "peft":
        flat = peft.PeftModel.from_pretrained(flat, out).merge_and_unload()
        text = peft.PeftModel.from_pretrained(text, out / "text_encoder").merge_and_unload()
    else:
        state, alphas, metadata = Loader.lora_state_dict(out, local_files_only=True, return_lora_metadata=True)
        Loader.load_lora_into_unet(state, alphas, flat, metadata=metadata)
        flat.fuse_lora()
        flat.unload_lora()
        Loader.load_lora_into_text_encoder(state, alphas, text, metadata=metadata)
        merged = {}
        for name, module in text.named_modules():
            if hasattr(module, "get_delta_weight"):
                merged[f"{name}.weight"] = module.base_layer.weight + module.get_delta_weight("default_0")
        assert len(merged) == len(source.text)
        text = type("Merged", (), {"state_dict": lambda self: merged})()

    theirs, ours = flat.state_dict(), network.state_dict()
    assert theirs.keys() < ours.keys()
    assert all(float((value - ours[name]).abs().max()) <= 1e-6 for name, value in theirs.items())
    state = text.state_dict()
    for name, change in source.text.items():
        key = name if name in state else f"text_model.{name}"
        assert float((state[key] - text_before[key] - change.delta()).abs().max()) <= 1e-6, name


@pytest.mark.parametrize("targets", ("attention", "conv"))
def test_files_of_one_alpha_merge_as_diffusers_merges_them(make_network, make_2d, tmp_path, targets):
    """Where diffusers is right, which it is not where alphas differ from layer to layer."""
    pytest.importorskip("peft", reason="peft is not installed")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    flat, network = make_2d(tiny_unet()), make_network(tiny_unet())
    inflate(network, flat.state_dict())
    layers = made(network, targets)
    for layer in layers.values():
        layer.alpha = 1.5
    path = save_kohya(tmp_path / "a.safetensors", layers)
    load_lora(network, path, 0.8)
    merge_lora(network)
    state, alphas = Loader.lora_state_dict(path, local_files_only=True)
    Loader.load_lora_into_unet(state, alphas, flat)
    flat.fuse_lora(0.8)
    flat.unload_lora()
    ours = network.state_dict()
    assert all(float((value - ours[name]).abs().max()) <= 1e-6 for name, value in flat.state_dict().items())


def test_trained_adapters_are_written(network, make_network, tmp_path):
    other = make_network(tiny_unet())
    parameters = add_lora(network, "conv", rank=3, alpha=12)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(std=0.05)
    [path] = write_lora(lora_of(network), tmp_path / "out", metadata={"instance_prompt": "a zog"})
    load_lora(other, path)
    merge_lora(network)
    merge_lora(other)
    ours, theirs = network.state_dict(), other.state_dict()
    assert all(float((value - theirs[name]).abs().max()) <= 1e-6 for name, value in ours.items())
    with safe_open(path, "pt") as file:
        assert file.metadata()["instance_prompt"] == "a zog"


def test_what_cannot_be_written_is_refused(network, source, tmp_path):
    with pytest.raises(ConfigError, match=r"one file: wanted a name that ends in .safetensors"):
        write_lora(source, tmp_path / "out", "kohya")
    for layout in READERS:
        write_lora(source, place(tmp_path, layout), layout)
        with pytest.raises(ConfigError, match=r"exists: give another place, or --overwrite"):
            write_lora(source, place(tmp_path, layout), layout)
        write_lora(source, place(tmp_path, layout), layout, overwrite=True)
        if layout == "diffusers":
            (tmp_path / "out").rename(tmp_path / "written")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="nothing that --overwrite replaces"):
        write_lora(source, tmp_path / "taken", "peft", overwrite=True)
    whole = save(tmp_path / "whole.safetensors", {"lora_unet_conv_in.diff": torch.ones(32, 4, 3, 3)})
    with pytest.raises(CheckpointError, match=r"the change of conv_in.weight is of kind Whole"):
        write_lora(read_lora(whole, network), tmp_path / "other")


@pytest.mark.parametrize("scale", (float("nan"), float("inf"), 1e39))
def test_scales_that_float32_does_not_hold_are_refused(source, tmp_path, scale):
    with pytest.raises(ConfigError, match="--scale"):
        write_lora(source, tmp_path / "out", scale=scale)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_peft_keeps_nothing_of_an_earlier_file(network, source, tmp_path):
    write_lora(source, tmp_path / "out", "peft")
    plain = read_lora(save_kohya(tmp_path / "plain.safetensors", made(network, "attention")), network)
    write_lora(plain, tmp_path / "out", "peft", overwrite=True)
    assert not (tmp_path / "out/text_encoder").exists()
    assert not read_lora(tmp_path / "out", network).text
