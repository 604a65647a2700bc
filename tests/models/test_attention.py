"""The transformer's layers are their definitions in float64, frame by frame, position by position, head by head."""

import pytest
import torch

from lavie.models.attention import (
    FeedForward,
    FirstAndPreviousAttention,
    SelfAttention,
    SpaceTimeAttention,
    SpatialTransformer,
    TemporalAttention,
    TextAttention,
    TransformerBlock,
)
from lavie.models.frames import Frames
from lavie.testing import TOLERANCES, relative_error, tiny_unet
from tests.models import by_hand
from tests.models.by_hand import parts, randn, random_weights, whole

B, F, S, C = 2, 3, 5, 16
JOINT = pytest.mark.parametrize("images", (0, 2))
EXACT = TOLERANCES[torch.float64]


def temporal(kind, **changes):
    """A temporal layer of 16 channels and two heads, whose RoPE turns 8 dims."""
    return kind(tiny_unet(**{"rotary_dim": 8} | changes), C, 2)


@JOINT
def test_self_attention_reads_its_own_frame(images):
    layer, x = random_weights(SelfAttention(C, 2)), randn(B * (F + images), S, C)
    expected = torch.stack([by_hand.attend(layer, frame, frame) for frame in x])
    assert relative_error(layer(x, None, Frames(F, images)), expected) <= EXACT


@JOINT
def test_first_and_previous_attention_reads_two_frames_and_an_image_itself(images):
    layer, x = random_weights(FirstAndPreviousAttention(C, 2)), randn(B * (F + images), S, C)
    clips, alone = parts(x, B, F, images)
    read = lambda clip, f: torch.cat([clip[0], clip[max(f - 1, 0)]])  # noqa: E731
    clips = [torch.stack([by_hand.attend(layer, clip[f], read(clip, f)) for f in range(F)]) for clip in clips]
    alone = [[by_hand.attend(layer, image[0], image[0])[None] for image in row] for row in alone]
    assert relative_error(layer(x, None, Frames(F, images)), whole(clips, alone)) <= EXACT


@JOINT
def test_text_attention_reads_the_text_of_the_clip_or_the_image(images):
    layer, x, text = random_weights(TextAttention(C, 2, 12)), randn(B * (F + images), S, C), randn(B, 1 + images, 7, 12)
    clips, alone = parts(x, B, F, images)
    clips = [torch.stack([by_hand.attend(layer, f, text[b, 0]) for f in clip]) for b, clip in enumerate(clips)]
    alone = [
        [by_hand.attend(layer, image[0], text[b, 1 + i])[None] for i, image in enumerate(row)]
        for b, row in enumerate(alone)
    ]
    assert relative_error(layer(x, text, Frames(F, images)), whole(clips, alone)) <= EXACT


@pytest.mark.parametrize("rotary_dim", (0, 4, 8))
@pytest.mark.parametrize("relative_bias", (True, False))
def test_temporal_attention_turns_frames_and_adds_the_bias_of_their_distance(rotary_dim, relative_bias):
    layer, x = (
        random_weights(temporal(TemporalAttention, rotary_dim=rotary_dim, relative_bias=relative_bias)),
        randn(B, F, S, C),
    )
    turn = by_hand.rotary_factors(F, rotary_dim) if rotary_dim else None
    bias = torch.zeros(2, F, F, dtype=torch.float64)
    for query in range(F):
        for key in range(F):
            bucket = abs(key - query) + (16 if key > query else 0)
            if relative_bias:
                bias[:, query, key] = layer.time_rel_pos_bias.relative_attention_bias.weight[bucket]
    expected = torch.empty_like(x)
    for b in range(B):
        for s in range(S):
            expected[b, :, s] = by_hand.attend(layer, x[b, :, s], x[b, :, s], turn, bias)
    assert relative_error(layer(x), expected) <= EXACT


@pytest.mark.parametrize("position", ("absolute", "none"))
def test_without_rope_frames_are_told_by_sinusoids_of_their_numbers_or_not_at_all(position):
    layer = random_weights(temporal(TemporalAttention, temporal_position=position, relative_bias=False))
    x = randn(B, F, S, C)
    number = torch.zeros(F, C, dtype=torch.float64)
    if position == "absolute":
        for f in range(F):
            for i in range(C // 2):
                angle = torch.tensor(f * 10000.0 ** (-2 * i / C), dtype=torch.float64)
                number[f, i], number[f, C // 2 + i] = angle.cos(), angle.sin()
    expected = torch.empty_like(x)
    for b in range(B):
        for s in range(S):
            expected[b, :, s] = by_hand.attend(layer, x[b, :, s] + number, x[b, :, s] + number)
    assert relative_error(layer(x), expected) <= 1e-6  # the sinusoids are float32
    mixed = layer(x.flip(1)).flip(1)
    assert (relative_error(mixed, layer(x)) <= EXACT) == (position == "none")


@pytest.mark.parametrize("rotary_dim", (0, 8))
def test_attention_over_space_and_time_reads_every_position_of_every_frame(rotary_dim):
    layer = random_weights(temporal(SpaceTimeAttention, rotary_dim=rotary_dim, relative_bias=False))
    x = randn(B, F, S, C)
    turn = by_hand.rotary_factors(F, rotary_dim).repeat_interleave(S, 0) if rotary_dim else None
    expected = torch.stack([by_hand.attend(layer, clip.flatten(0, 1), clip.flatten(0, 1), turn) for clip in x])
    assert relative_error(layer(x), expected.unflatten(1, (F, S))) <= EXACT


def test_blocks_hold_the_temporal_module_of_the_config():
    joint = tiny_unet(temporal_module="space_time", relative_bias=False)
    for config, kind in ((tiny_unet(), TemporalAttention), (joint, SpaceTimeAttention)):
        assert type(TransformerBlock(config, 64, 2, False).attn_temp) is kind


def test_temporal_attention_starts_as_the_zero_map():
    layer = temporal(TemporalAttention)
    assert not layer(torch.randn(B, F, S, C)).any() and layer.to_q.weight.any()


def feed_forward(layer, x):
    """GEGLU by hand: the first half of the projection times the GELU of the second one."""
    h = by_hand.linear(layer.net[0].proj, x)
    value, gate = h[..., : 4 * C], h[..., 4 * C :]
    return by_hand.linear(layer.net[2], value * gate * (1 + torch.erf(gate / 2**0.5)) / 2)


def test_feed_forward_is_geglu_of_four_times_the_width():
    layer, x = random_weights(FeedForward(C)), randn(B, S, C)
    assert relative_error(layer(x), feed_forward(layer, x)) <= EXACT


@JOINT
@pytest.mark.parametrize("only_cross_attention", (False, True))
@pytest.mark.parametrize("order", ("before_feed_forward", "after_feed_forward"))
@pytest.mark.parametrize("spatial", ("own", "first_and_previous"))
def test_a_block_adds_its_layers_in_order(spatial, order, only_cross_attention, images):
    """Each layer, which the tests above hold to its definition, is added to its input once it is normed."""
    config = tiny_unet(rotary_dim=8, temporal_order=order, spatial_attention=spatial)
    block = random_weights(TransformerBlock(config, C, 2, only_cross_attention))
    kinds = {"own": SelfAttention, "first_and_previous": FirstAndPreviousAttention}
    assert type(block.attn1) is (TextAttention if only_cross_attention else kinds[spatial])
    x, text, frames = randn(B * (F + images), S, C), randn(B, 1 + images, 7, 24), Frames(F, images)

    def temporal(x):
        clips, alone = parts(x, B, F, images)
        return whole([c + block.attn_temp(by_hand.layer_norm(block.norm_temp, c)[None])[0] for c in clips], alone)

    h = x + block.attn1(by_hand.layer_norm(block.norm1, x), text, frames)
    h = h + block.attn2(by_hand.layer_norm(block.norm2, h), text, frames)
    h = h if order == "after_feed_forward" else temporal(h)
    h = h + feed_forward(block.ff, by_hand.layer_norm(block.norm3, h))
    h = temporal(h) if order == "after_feed_forward" else h
    assert relative_error(block(x, text, frames), h) <= EXACT


def test_images_alone_pass_by_the_temporal_layer():
    block = random_weights(TransformerBlock(tiny_unet(rotary_dim=8), C, 2, False))
    x, text = randn(B * 2, S, C), randn(B, 3, 7, 24)
    before = block(x, text, Frames(0, 2))
    random_weights(block.attn_temp)
    assert torch.equal(block(x, text, Frames(0, 2)), before)


@JOINT
@pytest.mark.parametrize("linear", (False, True))
@pytest.mark.parametrize("convolutions", (False, True))
def test_a_spatial_transformer_is_norm_projection_block_projection(convolutions, linear, images):
    config = tiny_unet(rotary_dim=8, linear_projection=linear, temporal_convolutions=convolutions)
    layer = random_weights(SpatialTransformer(config, 0, False))
    width, (height, breadth) = config.block_out_channels[0], (2, 3)
    x, text = randn(B * (F + images), width, height, breadth), randn(B, 1 + images, 7, 24)
    assert layer.proj_in.weight.ndim == (2 if linear else 4)

    clips, alone = parts(x, B, F, images)
    if convolutions:
        clips = [by_hand.temporal_block(layer.resblock_temporal, clip) for clip in clips]
    h = whole(clips, alone)
    normed = torch.cat(by_hand.group_norm(layer.norm, 8, 1e-6, *h.split(1)))
    tokens = torch.stack([normed[:, :, i // breadth, i % breadth] for i in range(height * breadth)], 1)
    weight_in, weight_out = (p.weight.reshape(width, width) for p in (layer.proj_in, layer.proj_out))
    tokens = tokens @ weight_in.T + layer.proj_in.bias
    tokens = layer.transformer_blocks[0](tokens, text, Frames(F, images)) @ weight_out.T + layer.proj_out.bias
    expected = h.clone()
    for i in range(height * breadth):
        expected[:, :, i // breadth, i % breadth] += tokens[:, i]
    assert relative_error(layer(x, text, Frames(F, images)), expected) <= EXACT


def test_temporal_convolutions_start_as_the_identity():
    """A fresh transformer is the same with and without them, whatever the clip."""
    config = tiny_unet(temporal_convolutions=True)
    layer, x, text = SpatialTransformer(config, 0, False), torch.randn(B * F, 32, 2, 3), torch.randn(B, 1, 7, 24)
    with_them = layer(x, text, Frames(F, 0))
    assert torch.equal(layer.resblock_temporal(x, Frames(F, 0)), x)
    layer.resblock_temporal = None
    assert torch.equal(layer(x, text, Frames(F, 0)), with_them)
