"""What is no LoRA that fits is refused in one line that names what it is."""

import pytest
import torch

from lavie.errors import CheckpointError
from lavie.models.lora.attach import load_lora
from lavie.models.lora.read import read_lora
from lavie.models.unet import VideoUNet
from tests.models.lora.files import made, save, save_kohya, save_peft
from tests.models.networks import tiny_vsr

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
LORA = {f"{Q}.lora_up.weight": (64, 2), f"{Q}.lora_down.weight": (2, 64)}


def write(path, shapes, metadata=None):
    """A file of ones."""
    return save(path, {key: torch.ones(shape) for key, shape in shapes.items()}, metadata)


@pytest.mark.parametrize(
    "shapes, what",
    (
        (LORA | {f"{Q}.dora_scale": (64, 1)}, "is a DoRA"),
        ({"unet.mid_block.attentions.0.proj_in.lora_magnitude_vector": (64,)}, "is a DoRA"),
        ({f"{Q}.oft_blocks": (4, 8, 8)}, "is an OFT"),
        ({f"{Q}.weight": (64,), f"{Q}.on_input": ()}, "is an IA3"),
        ({f"{Q}.a1.weight": (64, 2)}, "is a GLoRA"),
        ({"base_model.model.mid_block.attentions.0.proj_in.lora_E.default": (2, 1)}, "is an AdaLoRA"),
        (LORA | {"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": ()}, "LoRA of Stable Diffusion XL"),
        (
            {"lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q.lora_up.weight": (64, 2)},
            "LoRA of Stable Diffusion XL",
        ),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (2, 64)}, "LoRA of Flux"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (2, 64)}, "LoRA of Flux"),
        ({"lora_unet_joint_blocks_0_x_block_mlp_fc1.alpha": ()}, "LoRA of Stable Diffusion 3"),
        ({"diffusion_model.blocks.0.cross_attn.k.lora_A.weight": (2, 64)}, "LoRA of a transformer"),
        (
            {"down_blocks.0.motion_modules.0.temporal_transformer.processor.to_q_lora.down.weight": (2, 64)},
            "LoRA of AnimateDiff's motion module",
        ),
        ({"model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3)}, "is a whole checkpoint"),
        ({"control_model.input_hint_block.0.weight": (8, 3, 3, 3)}, "is a ControlNet"),
        ({"conv_in.weight": (8, 4, 3, 3)}, "is a UNet"),
        ({"down_blocks.0.attentions.0.proj_in.weight": (8, 8)}, "is a UNet"),
        ({"decoder.conv_in.weight": (8, 4, 3, 3)}, "is an autoencoder"),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}, "is a text encoder"),
        ({"emb_params": (2, 768)}, "is an embedding of textual inversion"),
        ({"<cat-toy>": (768,)}, "is an embedding of textual inversion"),
        ({"clip_g": (1, 1280), "clip_l": (1, 768)}, "is an embedding of textual inversion"),
        ({"layers.0.weight": (8, 8)}, "is no LoRA"),
    ),
)
def test_other_files_are_named(network, tmp_path, shapes, what):
    with pytest.raises(CheckpointError, match=what) as refused:
        read_lora(write(tmp_path / "a.safetensors", shapes), network)
    assert str(refused.value).count("\n") == 0 and "wanted a LoRA of Stable Diffusion 1.x" in str(refused.value)


@pytest.mark.parametrize(
    "metadata, what",
    (
        ({"ss_v2": "True", "ss_base_model_version": "sd_v2_768_v"}, "LoRA of Stable Diffusion 2"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "ss_base_model_version 'sdxl_base_v1-0'"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "modelspec.architecture 'flux-1-dev/lora'"),
        ({"modelspec.prediction_type": "v"}, "predicts v"),
    ),
)
def test_what_a_file_says_of_itself_is_heard(network, tmp_path, metadata, what):
    with pytest.raises(CheckpointError, match=what):
        read_lora(write(tmp_path / "a.safetensors", LORA, metadata), network)


@pytest.mark.parametrize(
    "metadata",
    (
        {"ss_base_model_version": "sd_v1", "ss_v2": "False", "modelspec.prediction_type": "epsilon"},
        {"ss_base_model_version": "sd_1.5", "modelspec.architecture": "stable-diffusion-v1/lora"},
    ),
)
def test_what_it_says_of_stable_diffusion_1_is_let_through(network, tmp_path, metadata):
    assert len(read_lora(write(tmp_path / "a.safetensors", LORA, metadata), network).unet) == 1


@pytest.mark.parametrize(
    "width, message",
    (
        (768, "is a LoRA of Stable Diffusion 1.x, which reads 768 text features, and the network here reads 24"),
        (1024, "is a LoRA of Stable Diffusion 2, which reads 1024 text features"),
    ),
)
def test_networks_of_another_text_encoder_take_none(network, tmp_path, width, message):
    name = Q.replace("attn1_to_q", "attn2_to_k")
    shapes = {f"{name}.lora_up.weight": (64, 2), f"{name}.lora_down.weight": (2, width)}
    with pytest.raises(CheckpointError, match=message):
        load_lora(network, write(tmp_path / "a.safetensors", shapes))


def test_the_upscaler_takes_no_lora_of_stable_diffusion_1(tmp_path):
    vsr = VideoUNet(tiny_vsr().model_copy(update={"cross_attention_dim": 1024}))
    before = list(vsr.state_dict())
    name = Q.replace("attn1_to_q", "attn2_to_v")
    shapes = {f"{name}.lora_up.weight": (64, 2), f"{name}.lora_down.weight": (2, 768)}
    with pytest.raises(
        CheckpointError, match=r"Stable Diffusion 1.x, which .*; a vsr network is made of the x4 upscaler"
    ):
        load_lora(vsr, write(tmp_path / "a.safetensors", shapes))
    assert list(vsr.state_dict()) == before


def test_a_layer_of_another_size_is_named(network, make_network, tmp_path):
    other = make_network(network.config.model_copy(update={"block_out_channels": (32, 96)}))
    path = save_kohya(tmp_path / "a.safetensors", made(other, "attention"))
    with pytest.raises(
        CheckpointError, match=r"changes \S+.weight by \(96, 96\), and the network has it as \(64, 64\)"
    ):
        load_lora(network, path)
    assert list(network.state_dict()) == list(make_network(network.config).state_dict())


def test_folders_and_other_files(network, tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        read_lora(tmp_path / "none.safetensors", network)
    with pytest.raises(CheckpointError, match="is a folder without a LoRA"):
        read_lora(tmp_path, network)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a diffusers pipeline"):
        read_lora(tmp_path, network)
    (tmp_path / "a.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match="no complete safetensors file"):
        read_lora(tmp_path / "a.safetensors", network)
    (tmp_path / "a.pt").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(CheckpointError, match=r"of plain tensors .* names 'os.system'"):
        read_lora(tmp_path / "a.pt", network)
    torch.save(
        {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": torch.ones(2, 768)}}, tmp_path / "e.pt"
    )
    with pytest.raises(CheckpointError, match="is an embedding of textual inversion"):
        read_lora(tmp_path / "e.pt", network)
    with pytest.raises(CheckpointError, match="peft_type IA3 is not read"):
        read_lora(save_peft(tmp_path / "p", made(network), peft_type="IA3"), network)
