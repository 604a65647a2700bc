"""What is no checkpoint of Stable Diffusion 1 is refused in a line that says what it is: by keys and shapes alone."""

import pytest
import torch
from torch import Size

from lavie.config.model import PRESETS, UNetConfig
from lavie.errors import CheckpointError
from lavie.models.ldm_names import UNET
from lavie.models.weight_kinds import describe, require_flat, unet_sizes

BLOCK = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
BASE, UPSCALER = UNetConfig(), UNetConfig.model_validate(PRESETS["vsr"])


def unet(channels, width, **more):
    """The few shapes of a single file that tell its kind."""
    sizes = {UNET + "input_blocks.0.0.weight": (320, channels, 3, 3), UNET + BLOCK: (320, width)}
    return {name: Size(size) for name, size in (sizes | more).items()}


def flat(channels, width):
    """The same of a folder in diffusers' format."""
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    return {"conv_in.weight": Size((320, channels, 3, 3)), block: Size((320, width))}


CHECKPOINTS = (
    (4, 768, "a checkpoint of Stable Diffusion 1"),
    (9, 768, "an inpainting checkpoint of Stable Diffusion 1"),
    (8, 768, "an image-editing (InstructPix2Pix) checkpoint of Stable Diffusion 1"),
    (4, 1024, "a checkpoint of Stable Diffusion 2"),
    (9, 1024, "an inpainting checkpoint of Stable Diffusion 2"),
    (5, 1024, "a depth-to-image checkpoint of Stable Diffusion 2"),
    (7, 1024, "an upscaling checkpoint of Stable Diffusion 2"),
    (4, 2048, "a checkpoint of Stable Diffusion XL"),
    (9, 2048, "an inpainting checkpoint of Stable Diffusion XL"),
    (4, 1280, "a checkpoint of the refiner of Stable Diffusion XL"),
    (4, 640, "a checkpoint of an unknown kind"),
)


@pytest.mark.parametrize("channels, width, kind", CHECKPOINTS)
def test_checkpoints_are_told_by_channels_and_the_width_of_text(channels, width, kind):
    for sizes, called in ((unet(channels, width), UNET), (flat(channels, width), "")):
        assert describe(sizes) == f"{kind} ({channels} channels in, text {width} wide)"
        assert unet_sizes(sizes) == (channels, width)
        if (channels, width) == (4, 768):
            require_flat(sizes, BASE, "file", called)
            require_flat(sizes, UNetConfig.model_validate(PRESETS["interpolation"]), "file", called)
        else:
            with pytest.raises(CheckpointError) as caught:
                require_flat(sizes, BASE, "a/file", called)
            assert str(caught.value) == (
                f"a/file is {kind} ({channels} channels in, text {width} wide): "
                "wanted Stable Diffusion 1 with 4 channels in and text 768 wide"
            )


def test_a_stage_with_a_condition_of_its_own_takes_the_upscaler_alone():
    require_flat(unet(7, 1024), UPSCALER, "file", UNET)
    for channels, width in ((4, 768), (4, 1024), (7, 768)):
        with pytest.raises(CheckpointError, match="wanted a network with 7 channels in and text 1024 wide"):
            require_flat(unet(channels, width), UPSCALER, "file", UNET)
    nine = UNetConfig(in_channels=9)  # a condition of its own that no 2-D network had
    with pytest.raises(CheckpointError, match="file is an inpainting checkpoint of Stable Diffusion 1"):
        require_flat(unet(9, 768), nine, "file", UNET)


OTHERS = (
    ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", (4, 320, 1, 1), "a LoRA"),
    ("unet.down_blocks.0.attentions.0.attn1.to_q.lora.down.weight", (4, 320), "a LoRA"),
    ("base_model.model.down_blocks.0.attn1.to_q.lora_A.weight", (4, 320), "a LoRA"),
    ("down_blocks.0.attentions.0.attn1.processor.to_q_lora.down.weight", (4, 320), "a LoRA"),
    ("text_encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight", (4, 320), "a LoRA"),
    ("unet:0:up", (320, 4), "a LoRA"),
    ("lora_unet_mid_block.hada_w1_a", (320, 4), "a LoRA"),
    ("lora_unet_mid_block.lokr_w1", (320, 4), "a LoRA"),
    ("emb_params", (3, 768), "a textual-inversion embedding"),
    ("string_to_param.*", (1, 768), "a textual-inversion embedding"),
    ("clip_g", (8, 1280), "a textual-inversion embedding"),
    ("<my-cat>", (768,), "a textual-inversion embedding"),
    ("control_model.time_embed.0.weight", (1280, 320), "a ControlNet"),
    ("controlnet_cond_embedding.conv_in.weight", (16, 3, 3, 3), "a ControlNet"),
    ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight", (320,), "a motion module of AnimateDiff"),
    ("mid_block.attentions.0.transformer_blocks.0.attn_temp.to_q.weight", (320, 320), "a video network of LaVie"),
    ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", (9, 9), "a Stable Diffusion 3 checkpoint"),
    ("double_blocks.0.img_attn.norm.key_norm.scale", (128,), "a Flux checkpoint"),
    ("model_ema.diffusion_modelout2bias", (4,), "a checkpoint that holds averaged weights alone"),
    ("first_stage_model.encoder.conv_in.weight", (128, 3, 3, 3), "an autoencoder, without a UNet"),
    ("decoder.conv_in.weight", (128, 4, 3, 3), "an autoencoder, without a UNet"),
    ("text_model.embeddings.token_embedding.weight", (49408, 768), "a text encoder, without a UNet"),
    ("layer.0.weight", (3, 3), "nothing that is known here: 1 tensors, as 'layer.0.weight'"),
)


@pytest.mark.parametrize("key, size, kind", OTHERS)
def test_other_files_are_told_by_a_key(key, size, kind):
    assert describe({key: Size(size)}).startswith(kind)
    with pytest.raises(CheckpointError, match=r"^file is .*: wanted Stable Diffusion 1 with 4 channels in and"):
        require_flat({key: Size(size)}, BASE, "file", UNET)


def test_a_file_of_nothing_is_told():
    assert describe({}) == "nothing that is known here: 0 tensors"
    hostile = describe({"\n\x1b[31m" + "x" * 999: Size((1,))})
    assert "\n" not in hostile
    assert len(hostile) < 150


def test_a_checkpoint_with_a_lora_in_it_is_refused():
    more = {UNET + "input_blocks.1.1.proj_in.lora_down.weight": torch.Size((4, 320))}
    with pytest.raises(CheckpointError, match="is a LoRA"):
        require_flat(unet(4, 768) | more, BASE, "file", UNET)
