"""A single file gives the networks that diffusers reads from it, bit for bit; other files are refused by name."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import save_file

from lavie.errors import CheckpointError
from lavie.models.ldm_names import EMA, UNET
from lavie.models.meta_encoders import meta_autoencoder, meta_text_model
from lavie.models.single_file import read_text_model, read_unet, read_vae
from lavie.models.torch_file import read_weight_file
from lavie.models.trainable import is_temporal
from lavie.models.unet import VideoUNet
from lavie.models.weights import initialize, spatial_shapes
from tests.cascades import pretrained
from tests.models.ldm_files import CONSTANTS, flat_unet, ldm_encoders, ldm_unet, tiny_network
from tests.models.networks import tiny_vsr

__all__ = ["pretrained"]


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def write(state, path):
    """Write a single file as its name says: safetensors, or a pickle with a state dict in it."""
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save({"state_dict": state, "global_step": 7}, path)
    return path


def spatial(network):
    return {name: value for name, value in network.state_dict().items() if not is_temporal(name)}


def unet_of(path, config=None, extract_ema=False):
    config = config or tiny_network()
    return read_unet(read_weight_file(path), spatial_shapes(VideoUNet(config)), config, extract_ema=extract_ema)


@pytest.fixture(scope="module")
def plain():
    return dict(flat_unet().state_dict())


@pytest.fixture(scope="module")
def average():
    return dict(flat_unet(seed=1).state_dict())


# --- the UNet


@pytest.mark.parametrize("name", ("a.safetensors", "a.ckpt"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_the_unet_is_diffusers_bit_for_bit(tmp_path, plain, name, dtype):
    flat_unet().save_pretrained(tmp_path / "folder/unet")
    state = {key: value.to(dtype) for key, value in ldm_unet(plain, tiny_network()).items()}
    path = write(state | CONSTANTS, tmp_path / name)
    theirs = UNet2DConditionModel.from_single_file(
        str(path), config=str(tmp_path / "folder"), subfolder="unet", local_files_only=True, torch_dtype=dtype
    )
    ours = unet_of(path)
    assert same(ours.state, dict(theirs.state_dict()))
    assert same(ours.state, {key: value.to(dtype) for key, value in plain.items()})
    assert ours.unused == tuple(sorted(CONSTANTS)) and not ours.averaged


@pytest.mark.parametrize("name", ("a.safetensors", "a.ckpt"))
def test_averaged_weights_are_taken_by_choice(tmp_path, plain, average, name):
    path = write(ldm_unet(plain, tiny_network(), averaged=average), tmp_path / name)
    for extract_ema, wanted in ((False, plain), (True, average)):
        flat = unet_of(path, extract_ema=extract_ema)
        assert same(flat.state, wanted)
        assert flat.averaged == extract_ema
        assert sum(key.startswith(EMA) for key in flat.unused) == (2 if extract_ema else len(plain) + 2)


def test_a_file_of_averaged_weights_alone(tmp_path, plain, average):
    state = ldm_unet(plain, tiny_network(), averaged=average)
    path = write({k: v for k, v in state.items() if not k.startswith(UNET)}, tmp_path / "a.safetensors")
    assert same(unet_of(path, extract_ema=True).state, average)
    with pytest.raises(CheckpointError, match=r"holds averaged weights alone .*: set extract_ema to take them"):
        unet_of(path)


def test_a_network_starts_from_a_single_file(tmp_path, plain):
    path = write(ldm_unet(plain, tiny_network()) | CONSTANTS, tmp_path / "a.safetensors")
    network = VideoUNet(tiny_network())
    temporal = {name: value.clone() for name, value in network.state_dict().items() if is_temporal(name)}
    report = initialize(network, path)
    assert same(spatial(network), plain)
    assert same({name: network.state_dict()[name] for name in temporal}, temporal)
    assert str(report) == f"{path}: {len(plain)} tensors loaded, {len(temporal)} fresh, 3 unused"
    assert report.unused == tuple(sorted(CONSTANTS))


def test_channels_of_a_condition_start_at_zero(tmp_path, plain):
    path = write(ldm_unet(plain, tiny_network()), tmp_path / "a.ckpt")
    network = VideoUNet(tiny_network(in_channels=8))
    initialize(network, path)
    kernel = network.conv_in.weight
    assert torch.equal(kernel[:, :4], plain["conv_in.weight"])
    assert not kernel[:, 4:].any()


def test_an_upscaler_starts_the_stage_that_has_its_condition(tmp_path):
    """Of the name label_emb for noise levels, which no Stable Diffusion 1 has."""
    config = tiny_vsr()
    source = VideoUNet(config)
    path = write(ldm_unet(spatial(source), config), tmp_path / "a.safetensors")
    network = VideoUNet(config)
    initialize(network, path)
    assert same(spatial(network), spatial(source))


def test_what_a_file_says_that_it_predicts_is_told(tmp_path, plain, caplog):
    path = tmp_path / "a.safetensors"
    save_file(ldm_unet(plain, tiny_network()), path, {"modelspec.prediction_type": "v"})
    unet_of(path)
    assert "predicts v" in caplog.text


# --- the encoders


def test_the_encoders_are_diffusers_bit_for_bit(tmp_path, pretrained):
    state, vae, text = ldm_encoders(pretrained())
    file = read_weight_file(write(state, tmp_path / "a.safetensors"))
    ours = read_vae(file, meta_autoencoder(str(pretrained()), 8, torch.float32))
    assert same(ours, dict(vae.state_dict()))
    assert same(ours, convert_ldm_vae_checkpoint(dict(state), dict(vae.config)))
    words = read_text_model(file, meta_text_model(str(pretrained()), 32))
    assert same({name.removeprefix("text_model."): value for name, value in words.items()}, plain_names(text))
    assert all(name.startswith("text_model.") for name in words)


def plain_names(text):
    return {name.removeprefix("text_model."): value for name, value in text.state_dict().items()}


def test_encoders_that_a_file_lacks_are_none(tmp_path, plain, pretrained):
    file = read_weight_file(write(ldm_unet(plain, tiny_network()), tmp_path / "a.safetensors"))
    assert read_vae(file, meta_autoencoder(str(pretrained()), 8, torch.float32)) is None
    assert read_text_model(file, meta_text_model(str(pretrained()), 32)) is None


def test_encoders_must_fit_the_configs_beside_them(tmp_path, pretrained):
    state, _, _ = ldm_encoders(pretrained())
    state = dict(state)
    del state["first_stage_model.quant_conv.bias"]
    state["cond_stage_model.transformer.text_model.final_layer_norm.weight"] = torch.ones(5)
    file = read_weight_file(write(state, tmp_path / "a.ckpt"))
    with pytest.raises(CheckpointError, match=r"1 missing: quant_conv.bias\): check vae/config.json"):
        read_vae(file, meta_autoencoder(str(pretrained()), 8, torch.float32))
    with pytest.raises(CheckpointError, match=r"of another shape: .*final_layer_norm.*: check text_encoder/"):
        read_text_model(file, meta_text_model(str(pretrained()), 32))


# --- refusals


def test_missing_unexpected_and_misshapen_keys_are_told_by_the_names_in_the_file(tmp_path, plain):
    good = ldm_unet(plain, tiny_network())
    name = UNET + "middle_block.0.in_layers.0.weight"
    for damage, words in (
        ({key: value for key, value in good.items() if key != name}, f"1 missing: {name}"),
        (good | {UNET + "other": torch.zeros(1)}, f"1 unexpected: {UNET}other"),
        (good | {name: torch.zeros(3)}, rf"1 of another shape: {name} \(3,\)"),
    ):
        with pytest.raises(CheckpointError, match=words):
            unet_of(write(damage, tmp_path / "a.safetensors"))


def test_numbers_of_another_kind_are_refused(tmp_path, plain):
    good = ldm_unet(plain, tiny_network())
    name = UNET + "out.2.bias"
    for value in (good[name].long(), good[name].to(torch.float8_e4m3fn), good[name].to_sparse()):
        with pytest.raises(CheckpointError, match=r"out.2.bias is torch\..*: wanted float32, float16 or bfloat16"):
            unet_of(write(good | {name: value}, tmp_path / "a.ckpt"))


def test_a_failed_load_changes_nothing(tmp_path, plain):
    network = VideoUNet(tiny_network())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = ldm_unet(plain, tiny_network())
    state[UNET + "out.2.bias"] = state[UNET + "out.2.bias"].long()
    with pytest.raises(CheckpointError):
        initialize(network, write(state, tmp_path / "a.ckpt"))
    assert same(dict(network.state_dict()), before)


@pytest.mark.parametrize(
    "state, words",
    (
        ({"unet:0:up": torch.zeros(4, 1)}, "is a LoRA, which changes a checkpoint and is none"),
        ({"emb_params": torch.zeros(1, 768)}, "is a textual-inversion embedding"),
        ({"first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)}, "is an autoencoder, without a UNet"),
    ),
)
@pytest.mark.parametrize("name", ("a.safetensors", "a.ckpt"))
def test_what_is_no_checkpoint_is_named(tmp_path, state, words, name):
    with pytest.raises(CheckpointError, match=words):
        initialize(VideoUNet(tiny_network()), write(state, tmp_path / name))


@pytest.mark.parametrize("changes, kind", (({"in_channels": 9}, "an inpainting"), ({"cross_attention_dim": 1024}, "a")))
def test_other_checkpoints_are_refused_as_a_file_and_as_a_folder(tmp_path, changes, kind):
    other = flat_unet(**changes)
    other.save_pretrained(tmp_path / "folder/unet")
    path = write(ldm_unet(dict(other.state_dict()), tiny_network()), tmp_path / "a.safetensors")
    for place in (path, tmp_path / "folder"):
        with pytest.raises(CheckpointError, match=f"is {kind} checkpoint of .*: wanted a network with 4 channels in"):
            initialize(VideoUNet(tiny_network()), place)


def test_the_weights_of_a_folder_alone_are_named(tmp_path, plain):
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"):
        with pytest.raises(CheckpointError, match="holds the names of a folder in diffusers' format: give the folder"):
            initialize(VideoUNet(tiny_network()), write(plain, tmp_path / name))
