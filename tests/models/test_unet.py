"""The network is LaVie's on released outputs, Stable Diffusion's on single frames, and moves no memory around."""

import json
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lavie.config.stages import STAGES
from lavie.models.attention import TransformerBlock
from lavie.models.resnet import ResnetBlock
from lavie.models.temporal import TemporalModule
from lavie.models.unet import VideoUNet
from lavie.models.weights import load_official, load_stable_diffusion, to_official
from lavie.testing import GOLDEN_ATOL, ORACLE_ATOL, SHARED, TOLERANCES, relative_error, tiny_unet
from tests.markers import requires_shared
from tests.models.networks import tiny_interpolation, tiny_vsr


def inputs(config, batch=2, frames=5, images=0, size=(8, 12), length=7, seed=0):
    """Sample in the memory order that the network wants, timestep, text."""
    g = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, frames + images, *size, config.in_channels, generator=g).permute(0, 4, 1, 2, 3)
    text = torch.randn(batch, 1 + images, length, config.cross_attention_dim, generator=g)
    return sample, torch.tensor([7, 981, 430, 55][:batch]), text if images else text[:, 0]


def largest_error(actual, expected):
    return float((actual - expected).abs().max())


# --- against the released code


@pytest.mark.parametrize("case", ("main", "long.", "odd.", "joint."))
@pytest.mark.parametrize("stage", STAGES)
def test_equals_the_released_network(golden_of, stage, case):
    config, state, cases = golden_of(stage)
    if case not in cases:
        assert case == "joint." and stage != "base"
        return
    sample, timestep, text, low_res, noise_level, expected = cases[case]
    network = load_official(stage, state, config)
    if stage == "interpolation":  # kept there as one tensor of eight channels
        sample, low_res = sample.split(4, 1)
    images = 2 if case == "joint." else 0
    with torch.no_grad():
        actual = network(sample, timestep, text, low_res=low_res, noise_level=noise_level, num_images=images)
    assert largest_error(actual, expected) <= GOLDEN_ATOL


PARAMETERS = {"base": 909_124_116, "interpolation": 909_131_524, "vsr": 691_036_436}


@requires_shared
@pytest.mark.parametrize("stage", STAGES)
def test_full_size_has_the_released_keys_shapes_and_parameters(stage):
    with torch.device("meta"):
        network = VideoUNet(STAGES[stage].network)
    expected = json.loads((SHARED / f"reference/keys/{stage}.json").read_text())
    assert {name: list(value.shape) for name, value in to_official(stage, network).items()} == expected
    shared_frequencies = STAGES[stage].network.rotary_dim // 2
    assert sum(p.numel() for p in network.parameters()) + shared_frequencies == PARAMETERS[stage]


# --- against the 2-D model

CONFIGS = {
    "tiny": tiny_unet(),
    "all levels attend": tiny_unet(cross_attention=(True, True), num_attention_heads=(1, 2)),
    "finest level does not attend": tiny_unet(cross_attention=(False, True), layers_per_block=2),
    "four levels": tiny_unet(block_out_channels=(32, 32, 64, 64), cross_attention=(True, True, True, False)),
    "interpolation": tiny_interpolation(),
    "super-resolution": tiny_vsr(),
    "other channels": tiny_unet(in_channels=8, out_channels=3, norm_num_groups=4, rotary_dim=16, relative_bias=False),
}


@pytest.mark.parametrize("size", ((8, 12), (7, 9)))
@pytest.mark.parametrize("name", CONFIGS)
def test_one_frame_of_a_fresh_network_is_the_2d_model(make_2d, name, size):
    config = CONFIGS[name]
    flat = make_2d(config)
    network = load_stable_diffusion(flat.state_dict(), config)
    sample, timestep, text = inputs(config, frames=1, size=size)
    level = torch.tensor([3, 19]) if config.num_noise_levels else None
    with torch.no_grad():
        expected = flat(sample[:, :, 0], timestep, text, class_labels=level).sample
        actual = network(sample, timestep, text, noise_level=level)[:, :, 0]
        condition = config.in_channels - config.out_channels
        if condition > 0:
            parts = sample.split([config.out_channels, condition], 1)
            split = network(parts[0], timestep, text, low_res=parts[1], noise_level=level)[:, :, 0]
            assert torch.equal(split, actual)
    assert largest_error(actual, expected) <= ORACLE_ATOL


@pytest.mark.parametrize("name", ("tiny", "interpolation", "super-resolution"))
def test_the_temporal_path_runs_on_one_frame_and_learns_from_the_start(make_2d, name):
    """The last projection of every temporal part starts at zero and gets a gradient."""
    config = CONFIGS[name]
    network = load_stable_diffusion(make_2d(config).state_dict(), config)
    level = torch.tensor([3, 19]) if config.num_noise_levels else None
    network(*inputs(config, frames=1), noise_level=level).square().sum().backward()
    last = ("attn_temp.to_out.0.weight", "resblock_temporal.conv2.weight", "shift_conv.weight")
    learning = [(n, p) for n, p in network.named_parameters() if n.endswith(last)]
    assert len(learning) == blocks(network) * (2 if config.temporal_convolutions else 1) + temporal_modules(network)
    for parameter_name, parameter in learning:
        assert not parameter.any() and parameter.grad.any(), parameter_name


@torch.no_grad()
@pytest.mark.parametrize("name", ("interpolation", "super-resolution"))
def test_images_pass_by_every_temporal_part(make_2d, make_network, name):
    config = CONFIGS[name]
    network, flat = make_network(config), make_2d(config)
    network.load_state_dict(flat.state_dict(), strict=False)
    sample, timestep, text = inputs(config, frames=3, images=2)
    level = torch.tensor([3, 19]) if config.num_noise_levels else None
    output = network(sample, timestep, text, noise_level=level, num_images=2)
    for image in range(2):
        alone = flat(sample[:, :, 3 + image], timestep, text[:, 1 + image], class_labels=level).sample
        assert largest_error(output[:, :, 3 + image], alone) <= ORACLE_ATOL


@pytest.mark.parametrize(
    "change,message",
    (
        (dict(low_res=None), "wanted low_res \\(2, 3, 5, 8, 12\\)"),
        (dict(low_res=torch.zeros(2, 3, 5, 8, 11)), "wanted low_res"),
        (dict(noise_level=None), "embeds 20 levels"),
    ),
)
def test_refuses_conditions_that_do_not_fit(change, message):
    config = tiny_vsr()
    sample, timestep, text = inputs(config)
    given = dict(low_res=sample[:, 4:], noise_level=torch.tensor([0, 1])) | change
    with pytest.raises(ValueError, match=message):
        VideoUNet(config)(sample[:, :4], timestep, text, **given)


def joint(make_2d, make_network, statistics, frames=5, images=2):
    """A joint network with a busy temporal path, and the 2-D model with its spatial weights."""
    config = tiny_unet(norm_statistics=statistics)
    network, flat = make_network(config), make_2d(config)
    network.load_state_dict(flat.state_dict(), strict=False)
    return network, flat, inputs(config, frames=frames, images=images)


def flat_images(flat, sample, timestep, text, frames):
    """The 2-D model on each image with its own text."""
    outputs = [flat(sample[:, :, i], timestep, text[:, 1 + i - frames]).sample for i in range(frames, sample.shape[2])]
    return torch.stack(outputs, 2)


@torch.no_grad()
def test_separate_statistics_make_images_those_of_the_2d_model(make_2d, make_network):
    network, flat, (sample, timestep, text) = joint(make_2d, make_network, "separate")
    output = network(sample, timestep, text, num_images=2)
    assert largest_error(output[:, :, 5:], flat_images(flat, sample, timestep, text, 5)) <= ORACLE_ATOL

    other = sample.clone()
    other[:, :, :5] = 3 * other[:, :, :5] + 1
    changed = network(other, timestep, text, num_images=2)
    assert torch.equal(changed[:, :, 5:], output[:, :, 5:]) and not torch.equal(changed, output)


@torch.no_grad()
def test_separate_statistics_keep_images_out_of_the_video(make_2d, make_network):
    network, _, (sample, timestep, text) = joint(make_2d, make_network, "separate")
    video = network(sample, timestep, text, num_images=2)[:, :, :5]
    sample, text = sample.clone(), text.clone()
    sample[:, :, 5:] = 3 * sample[:, :, 5:] + 1
    text[:, 1:] += 1
    assert torch.equal(network(sample, timestep, text, num_images=2)[:, :, :5], video)
    assert largest_error(network(sample[:, :, :5], timestep, text[:, 0]), video) <= ORACLE_ATOL


@torch.no_grad()
def test_pooled_statistics_leak_between_video_and_images(make_2d, make_network):
    network, flat, (sample, timestep, text) = joint(make_2d, make_network, "pooled")
    output = network(sample, timestep, text, num_images=2)
    assert relative_error(output[:, :, 5:], flat_images(flat, sample, timestep, text, 5)) > 0.01
    assert relative_error(output[:, :, :5], network(sample[:, :, :5], timestep, text[:, 0])) > 0.01


@torch.no_grad()
def test_images_only_are_the_2d_model(make_2d, make_network):
    network, flat, (sample, timestep, text) = joint(make_2d, make_network, "separate", frames=0, images=3)
    output = network(sample, timestep, text, num_images=3)
    assert largest_error(output, flat_images(flat, sample, timestep, text, 0)) <= ORACLE_ATOL


# --- properties


@torch.no_grad()
@pytest.mark.parametrize("images", (0, 2))
def test_samples_of_a_batch_are_independent(make_network, images):
    config = tiny_unet()
    network = make_network(config)
    sample, timestep, text = inputs(config, images=images)
    first = network(sample, timestep, text, num_images=images)[0]
    for tensor in (sample, text):
        tensor[1] = torch.nan
    timestep[1] = 0
    output = network(sample, timestep, text, num_images=images)
    assert torch.equal(output[0], first) and output[1].isnan().all()


@torch.no_grad()
def test_every_input_and_every_frame_matters(make_network):
    config = tiny_unet()
    network = make_network(config)
    sample, timestep, text = inputs(config, batch=1)
    output = network(sample, timestep, text)
    assert relative_error(network(sample, timestep + 300, text), output) > 0.01
    assert relative_error(network(sample, timestep, text.flip(-1)), output) > 0.01
    assert relative_error(network(sample.flip(2), timestep, text).flip(2), output) > 0.01  # the order of frames
    nudged = sample.clone()
    nudged[:, :, 4] += 1
    moved = (network(nudged, timestep, text) - output).flatten(3).norm(dim=(1, 3))
    assert (moved > 0.01).all()


@torch.no_grad()
@pytest.mark.parametrize("frames,images", ((61, 0), (16, 2)))
def test_float32_is_float64_rounded(make_network, frames, images):
    """61 frames is far beyond the 16 that anything is trained on."""
    config = tiny_unet()
    network = make_network(config)
    sample, timestep, text = inputs(config, batch=1, frames=frames, images=images, size=(4, 4))
    single = network(sample, timestep, text, num_images=images)
    double = network.double()(sample.double(), timestep, text.double(), num_images=images)
    assert double.dtype == torch.float64
    assert relative_error(single, double) <= TOLERANCES[torch.float32]


@torch.no_grad()
def test_bfloat16_runs_and_is_near(make_network):
    config = tiny_unet()
    network = make_network(config)
    sample, timestep, text = inputs(config)
    exact = network(sample, timestep, text)
    rounded = network.bfloat16()(sample.bfloat16(), timestep, text.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert relative_error(rounded, exact) <= 10 * TOLERANCES[torch.bfloat16]  # some 40 roundings in a row


@pytest.mark.parametrize("images", (0, 2))
def test_gradient_checkpointing_changes_no_bit(make_network, images):
    config = tiny_unet()
    network = make_network(config)
    calls = Counter()
    for block in network.modules():
        if isinstance(block, (ResnetBlock, TransformerBlock)):
            block.register_forward_pre_hook(lambda module, _: calls.update([type(module)]))

    def run():
        sample, timestep, text = inputs(config, images=images)
        leaves = [sample.requires_grad_(), text.requires_grad_(), *network.parameters()]
        output = network(sample, timestep, text, num_images=images)
        return [output, *torch.autograd.grad(output.square().sum(), leaves)]

    plain, once = run(), Counter(calls)
    network.gradient_checkpointing = True
    for a, b in zip(plain, run(), strict=True):
        assert torch.equal(a, b)
    assert once[ResnetBlock] and once[TransformerBlock]
    assert {kind: calls[kind] - n for kind, n in once.items()} == {kind: 2 * n for kind, n in once.items()}


@pytest.mark.parametrize(
    "text,images",
    (
        ((1, 7, 24), 0),  # another batch
        ((2, 7, 24), 2),  # no text for the images
        ((2, 2, 7, 24), 2),  # one too few
        ((2, 3, 7, 24), 0),  # two too many
        ((2, 7, 32), 0),  # another width
        ((2, 24), 0),  # no axis of words
        ((2, 8, 7, 24), 7),  # more images than frames
    ),
)
def test_refuses_text_that_does_not_fit(text, images):
    network = VideoUNet(tiny_unet())
    sample, timestep, _ = inputs(network.config, frames=5)
    with pytest.raises(ValueError, match=rf"num_images={images}: wanted \(2, {1 + images}, L, 24\)"):
        network(sample, timestep, torch.zeros(text), num_images=images)


# --- memory

COPIES = {
    # What moves elements to another place and does nothing else: contiguous, reshape, pad and indexing end here.
    "clone", "copy_", "_to_copy", "copy", "contiguous", "constant_pad_nd",
    "index", "index_select", "gather", "roll", "repeat",
    # The gradients of slices: a zero-filled tensor of the full size, with one part copied in.
    "slice_backward", "select_backward", "as_strided_scatter", "slice_scatter", "select_scatter",
}  # fmt: skip


LAYOUT_BOUND = {
    **{"convolution": 1, "convolution_backward": 2},
    **{"group_norm_silu": 1, "group_norm_silu_again": 1, "group_norm_silu_backward": 2},
}
"""How many leading operands an operator would copy by itself if they were not channels last."""


class LayoutCopies(TorchDispatchMode):
    """Counts what copies activations, by operator; the insides of lavie's own operators are not seen.

    Not counted: gradients that are written into a convolution weight's own layout, index tables and the timestep (not
    activations), concatenations (`concatenations` has them), and the casts of parameters.
    """

    def __init__(self, network):
        super().__init__()
        self.parameters = {parameter.shape for parameter in network.parameters()}
        self.copies, self.concatenations, self.permuted = Counter(), Counter(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in COPIES and output.ndim > 2 and output.shape not in self.parameters:
            self.copies[name, tuple(output.shape)] += 1
        if name in ("cat", "stack") and args[0][0].ndim > 2:
            self.concatenations[name] += 1
        for tensor in args[: LAYOUT_BOUND.get(name, 0)]:
            if not in_channels_last_order(tensor):
                self.permuted.append((name, tuple(tensor.shape), tensor.stride()))
        return output


def in_channels_last_order(tensor):
    """Whether the strides fall in the order N, H, W, C, densely in C: also a slice of channels of such a tensor."""
    n, c, h, w = tensor.stride()
    return c == 1 and w >= tensor.shape[1] and h == w * tensor.shape[3] and n == h * tensor.shape[2]


def blocks(network):
    """Each joins gradients twice, those of a packed product (stack)."""
    return sum(isinstance(module, TransformerBlock) for module in network.modules())


def temporal_modules(network):
    return sum(isinstance(module, TemporalModule) for module in network.modules())


def skips(network):
    return sum(len(block.resnets) for block in network.up_blocks)


def count_copies(network, sample, timestep, text, images):
    sample.requires_grad_()
    text.requires_grad_()
    with LayoutCopies(network) as seen:
        output = network(sample, timestep, text, num_images=images)
        assert output.permute(0, 2, 3, 4, 1).is_contiguous()
        output.backward(torch.ones(output.permute(0, 2, 3, 4, 1).shape).permute(0, 4, 1, 2, 3))
    assert sample.grad is not None and text.grad is not None
    return seen


@pytest.mark.parametrize("checkpointing", (False, True))
@pytest.mark.parametrize("batch", (1, 2))
def test_no_layout_copies(make_network, batch, checkpointing):
    config = tiny_unet()
    network = make_network(config)
    network.gradient_checkpointing = checkpointing
    seen = count_copies(network, *inputs(config, batch=batch), images=0)
    assert not seen.copies and not seen.permuted
    times = 3 if checkpointing else 2  # forward, once more if it is computed again, and backward
    assert seen.concatenations == {"cat": times * skips(network), "stack": 2 * blocks(network)}


@pytest.mark.parametrize("batch", (1, 2))
def test_joint_batches_copy_only_to_join(make_network, batch):
    """Temporal attention gives nothing to images, which are the last rows, so nothing parts or joins there; their texts
    join once in text attention. At the network's face the frames of each row come together."""
    config = tiny_unet()
    network = make_network(config)
    seen = count_copies(network, *inputs(config, batch=batch, images=2), images=2)
    assert not seen.permuted
    for _, shape in seen.copies:  # the sample's 4 channels, 7 words of text, one vector per frame: no activation
        assert shape[-1] == 4 or shape[2] == 7 or shape[-2:] == (1, 1), shape
    joins = 1 + 1  # keys and values of the texts, forward and backward
    face = 2 + 2  # the sample and the output, forward and backward
    assert seen.concatenations["cat"] == 2 * skips(network) + joins * blocks(network) + face


def test_the_counter_sees_a_copy(make_network):
    """A sample in the memory order of its shape is copied at the door, and its gradient back; nothing else is."""
    config = tiny_unet()
    network = make_network(config)
    sample, timestep, text = inputs(config)
    seen = count_copies(network, sample.contiguous(), timestep, text, images=0)
    assert seen.copies == {("clone", (2, 5, 8, 12, 4)): 1, ("copy_", (2, 4, 5, 8, 12)): 1}
