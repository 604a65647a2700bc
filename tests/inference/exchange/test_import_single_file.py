"""Single files become exported folders, encoders included; differences are added to any network that is imported."""

import json
import shutil
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lavie.cli import main as cli
from lavie.config.add_difference import AddDifferenceConfig
from lavie.errors import CheckpointError, ConfigError
from lavie.inference.exchange.import_weights import import_stage
from lavie.inference.load import load_stage
from lavie.models.trainable import is_temporal
from lavie.models.unet import VideoUNet
from lavie.models.weights import read_folder, to_official
from tests.models.hostile_pickles import body, in_place
from tests.models.ldm_files import flat_unet, ldm_encoders, ldm_unet, random_values, tiny_network


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def spatial(folder):
    return {name: value for name, value in read_folder(folder / "unet").items() if not is_temporal(name)}


@pytest.fixture
def config(tmp_path):
    """What the network of the tiny files is, as `--config` takes it."""
    flat_unet().save_config(tmp_path / "described")
    return tmp_path / "described/config.json"


@pytest.fixture
def community(tmp_path, pretrained):
    """A single file with all three networks and an average of the UNet."""
    plain, average = (dict(flat_unet(seed=seed).state_dict()) for seed in (1, 2))
    encoders, vae, text = ldm_encoders(pretrained())
    torch.save(
        {"state_dict": ldm_unet(plain, tiny_network(), averaged=average) | encoders}, tmp_path / "community.ckpt"
    )
    return tmp_path / "community.ckpt", plain, average, vae, text


@pytest.fixture
def lavie(tmp_path):
    """A released file of the tiny base network in float16, and its state by our names."""
    network = random_values(VideoUNet(tiny_network(norm_statistics="pooled")), 5).half()
    torch.save({"ema": to_official("base", network)}, tmp_path / "lavie.pt")
    return tmp_path / "lavie.pt", dict(network.state_dict())


@pytest.fixture
def original(tmp_path):
    """Stable Diffusion 1.4's UNet, as a folder."""
    flat_unet().save_pretrained(tmp_path / "sd/unet")
    return tmp_path / "sd"


# --- single files


def test_a_single_file_becomes_a_whole_folder(community, config, pretrained, tmp_path):
    """Its three networks, with the configs and the tokenizer of the folder that is named; diffusers reads them."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    file, plain, _, vae, text = community
    import_stage(file, tmp_path / "out", "base", config=config, pretrained=pretrained())
    assert same(spatial(tmp_path / "out"), plain)
    theirs = AutoencoderKL.from_pretrained(tmp_path / "out/vae")
    assert same(dict(theirs.state_dict()), dict(vae.state_dict()))
    assert theirs.config.scaling_factor == 0.25
    words = CLIPTextModel.from_pretrained(tmp_path / "out/text_encoder")
    assert same(dict(words.state_dict()), dict(text.state_dict()))
    pipeline, _ = load_stage(tmp_path / "out")
    assert pipeline(["a fox"], num_frames=2, height=16, width=16, num_inference_steps=2).any()
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert (about["weights"], about["source"]) == ("inflated", "community.ckpt")


def test_a_folder_of_configs_alone_is_enough(community, config, pretrained, tmp_path):
    """And half precision becomes float32, in which the text encoder of every stage runs."""
    file, _, _, vae, text = community
    content = torch.load(file, weights_only=True)["state_dict"]
    halves = {name: value.half() if value.is_floating_point() else value for name, value in content.items()}
    torch.save({"state_dict": halves}, tmp_path / "half.ckpt")
    bare = tmp_path / "bare"
    for part in ("vae", "text_encoder", "tokenizer"):
        (bare / part).mkdir(parents=True)
        for entry in (pretrained() / part).iterdir():
            if entry.suffix in (".json", ".txt"):
                (bare / part / entry.name).write_bytes(entry.read_bytes())
    import_stage(tmp_path / "half.ckpt", tmp_path / "out", "base", config=config, pretrained=bare)
    pipeline, _ = load_stage(tmp_path / "out")
    loaded = pipeline.text_encoder.model.state_dict()
    assert same(dict(loaded), {name: value.half().float() for name, value in text.state_dict().items()})
    assert same(
        dict(pipeline.autoencoder.vae.state_dict()),
        {name: value.half().float() for name, value in vae.state_dict().items()},
    )


@pytest.mark.parametrize("part", ("vae", "text_encoder"))
def test_encoders_of_the_folder_are_finite(config, pretrained, tmp_path, part):
    source = tmp_path / "sd"
    shutil.copytree(pretrained(), source)
    [weights] = (path for path in (source / part).glob("*.safetensors") if path.name.count(".") == 1)
    state = {
        name: value.clone() for name, value in load_file(weights).items()
    }  # the file, which is mapped, is written over
    name = sorted(state)[-1]
    state[name].view(-1)[-1] = float("nan")
    save_file(state, weights, {"format": "pt"})
    torch.save(ldm_unet(dict(flat_unet().state_dict()), tiny_network()), tmp_path / "pruned.ckpt")
    with pytest.raises(CheckpointError, match=f"{part}/{weights.name}: {name} has values that are not finite"):
        import_stage(tmp_path / "pruned.ckpt", tmp_path / "out", "base", config=config, pretrained=source)
    assert not (tmp_path / "out").exists()


def test_encoders_that_a_file_lacks_come_from_the_folder(config, pretrained, tmp_path):
    torch.save(ldm_unet(dict(flat_unet().state_dict()), tiny_network()), tmp_path / "pruned.ckpt")
    import_stage(tmp_path / "pruned.ckpt", tmp_path / "bare", "base", config=config)
    assert not (tmp_path / "bare/vae").exists()
    import_stage(tmp_path / "pruned.ckpt", tmp_path / "out", "base", config=config, pretrained=pretrained())
    for part, name in (("vae", "diffusion_pytorch_model.safetensors"), ("text_encoder", "model.safetensors")):
        assert (tmp_path / "out" / part / name).read_bytes() == (pretrained() / part / name).read_bytes()


def test_averaged_weights_and_other_stages(community, config, tmp_path):
    file, plain, average, _, _ = community
    import_stage(file, tmp_path / "average", "base", config=config, extract_ema=True)
    assert same(spatial(tmp_path / "average"), average)
    import_stage(file, tmp_path / "between", "interpolation", config=config)
    state = spatial(tmp_path / "between")
    assert torch.equal(state["conv_in.weight"][:, :4], plain["conv_in.weight"])
    assert state["conv_in.weight"].shape[1] == 8 and not state["conv_in.weight"][:, 4:].any()
    with pytest.raises(CheckpointError, match=r"--extract-ema is given, but .*average holds no averaged weights"):
        import_stage(tmp_path / "average", tmp_path / "out", "base", extract_ema=True)


def test_other_checkpoints_are_refused_before_anything_is_made(tmp_path):
    for name, changes, kind in (
        (
            "inpainting",
            {"in_channels": 9, "cross_attention_dim": 768},
            "an inpainting checkpoint of Stable Diffusion 1",
        ),
        ("two", {"cross_attention_dim": 1024}, "a checkpoint of Stable Diffusion 2"),
        ("xl", {"cross_attention_dim": 2048}, "a checkpoint of Stable Diffusion XL"),
        ("refiner", {"cross_attention_dim": 1280}, "a checkpoint of the refiner of Stable Diffusion XL"),
    ):
        other = flat_unet(**changes)
        other.save_pretrained(tmp_path / name / "unet")
        torch.save(ldm_unet(dict(other.state_dict()), tiny_network()), tmp_path / f"{name}.ckpt")
        for place in (tmp_path / name, tmp_path / f"{name}.ckpt"):
            for stage in ("base", "vsr"):
                with pytest.raises(CheckpointError, match=f"is {kind} .*: wanted "):
                    import_stage(place, tmp_path / "out", stage)
    torch.save({"unet:0:up": torch.zeros(3, 1)}, tmp_path / "lora.pt")
    with pytest.raises(CheckpointError, match="is a LoRA, which changes a checkpoint and is none"):
        import_stage(tmp_path / "lora.pt", tmp_path / "out", "base")
    assert not (tmp_path / "out").exists()


# --- differences


@pytest.mark.parametrize("scale", (0.0, 0.5))
def test_a_difference_is_added_to_a_released_network(lavie, community, original, config, tmp_path, scale):
    (file, before), (checkpoint, plain, _, _, _) = lavie, community
    added = AddDifferenceConfig(weights=str(checkpoint), original=str(original), scale=scale)
    import_stage(file, tmp_path / "out", "base", config=config, added=added)
    after = read_folder(tmp_path / "out/unet")
    old = flat_unet().state_dict()
    for name, value in before.items():
        step = 0 if is_temporal(name) or not scale else scale * (plain[name] - old[name])
        expected = value if isinstance(step, int) else (value.float() + step).half()
        assert torch.equal(after[name], expected), name
        assert after[name].dtype == torch.float16
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert about["weights"] == ("merged" if scale else "released")
    assert about["source"] == ("lavie.pt + 0.5 (community.ckpt - sd)" if scale else "lavie.pt")
    assert ("the difference of two others" in (tmp_path / "out/README.md").read_text()) == bool(scale)


def test_a_difference_is_added_to_an_exported_folder(lavie, community, original, config, pretrained, tmp_path):
    (file, _), (checkpoint, *_) = lavie, community
    added = AddDifferenceConfig(weights=str(checkpoint), original=str(original), scale=0.5)
    import_stage(file, tmp_path / "first", "base", config=config, pretrained=pretrained())
    import_stage(tmp_path / "first", tmp_path / "merged", "base", added=added)
    import_stage(file, tmp_path / "at_once", "base", config=config, added=added, pretrained=pretrained())
    assert same(read_folder(tmp_path / "merged/unet"), read_folder(tmp_path / "at_once/unet"))
    assert (tmp_path / "merged/vae/config.json").is_file()
    settings = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("merged", "at_once")]
    assert settings[0] == settings[1]


def test_a_difference_needs_to_know_of_what(lavie, community, config, tmp_path):
    added = AddDifferenceConfig(weights=str(community[0]))
    with pytest.raises(ConfigError, match="--add-difference needs --original, or --pretrained with a unet/"):
        import_stage(lavie[0], tmp_path / "out", "base", config=config, added=added)
    added = AddDifferenceConfig(weights=str(community[0]), original=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="nowhere: no such file or folder"):
        import_stage(lavie[0], tmp_path / "out", "base", config=config, added=added)


# --- the command


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lavie", "import", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_the_command(lavie, community, original, config, tmp_path, monkeypatch, capsys):
    common = ("--stage", "base", "--config", config)
    merge = ("--add-difference", community[0], "--original", original, "--scale", "0.5", "--extract-ema")
    assert call(monkeypatch, lavie[0], tmp_path / "out", *common, *merge) in (None, 0)
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    step = 0.5 * (community[2]["conv_out.bias"] - flat_unet().state_dict()["conv_out.bias"])
    expected = (lavie[1]["conv_out.bias"].float() + step).half()
    assert torch.equal(read_folder(tmp_path / "out/unet")["conv_out.bias"], expected)
    assert "--scale belong to --add-difference" in call(monkeypatch, lavie[0], tmp_path / "o", *common, "--scale", "1")


def test_the_command_runs_nothing_of_a_hostile_file(tmp_path, monkeypatch):
    (tmp_path / "a.ckpt").write_bytes(in_place(body("reduce", "os", "mkdir", (str(tmp_path / "canary"),)), "state"))
    message = call(monkeypatch, tmp_path / "a.ckpt", tmp_path / "out", "--stage", "base")
    assert "Nothing in it was run" in message and "\n" not in message.strip()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt"]


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_weights_that_are_not_finite_are_refused(config, lavie, original, tmp_path, value):
    content = torch.load(lavie[0], weights_only=True)
    content["ema"]["conv_in.weight"].view(-1)[0] = value
    torch.save(content, lavie[0])
    flat = flat_unet()
    flat.conv_in.weight.data.view(-1)[0] = value
    flat.save_pretrained(original / "unet")
    for src in (lavie[0], original):
        with pytest.raises(CheckpointError, match=r"conv_in.weight has values that are not finite"):
            import_stage(src, tmp_path / "out", "base", config=config)
