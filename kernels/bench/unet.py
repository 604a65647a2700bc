"""What the kernels buy end to end: a residual block with its transformer, and a training pass of the whole network.

    python -m lavie.kernels.bench.unet [--dtype bf16|fp16|fp32] [--only TEXT] [--dry-run]

Parameters are leaves too, so forward and backward are those of training, the optimizer left out. `released` runs the
same modules as the released code does: clips contiguous in (B, C, F, H, W), GroupNorm on five dimensions, frames
brought together for temporal attention by copies, attention written out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from ...bench.released_network import ReleasedNetwork
from ...config.model import UNetConfig
from ...models import attention as attention_module
from ...models import resnet as resnet_module
from ...models.attention import SpatialTransformer
from ...models.backends import set_backends
from ...models.frames import Frames
from ...models.resnet import ResnetBlock
from ...models.unet import VideoUNet
from ...ops import geglu, group_norm_linear, norm_linear, residual_block
from ...ops.backend import Backend
from ...ops.temporal_attention import rotary_frequencies
from ..cost import Cost
from .check import Case, Way
from .harness import main

CLIP, IMAGES = 16, 4
BACKENDS: tuple[Backend, ...] = ("triton", "torch")


class Block(nn.Module):
    """A residual block of the UNet, followed by the transformer of its level."""

    def __init__(self, config: UNetConfig, level: int):
        super().__init__()
        channels, time_channels = config.block_out_channels[level], 4 * config.block_out_channels[0]
        self.resnet = ResnetBlock(channels, channels, time_channels, config.norm_num_groups)
        self.transformer = SpatialTransformer(config, level, config.text_only[level])

    def forward(self, x: Tensor, time: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, C, H, W) to a tensor like it; time: (B, T), text: (B, 1, L, D)."""
        return self.transformer(self.resnet(x, time, frames), text, frames)


def released_group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    groups: int,
    eps: float,
    frames: int = 1,
    silu: bool = True,
    **_: Any,
) -> Tensor:
    """Stand in for `group_norm_silu` with the released code's way: PyTorch's GroupNorm on contiguous clips.

    Args:
        x: (B F, C, H, W); if F > 1, the frames of each clip are copied to (B, C, F, H, W) first.
        weight: (C,).
        bias: (C,).
        groups: number of groups of channels.
        eps: added to the variance.
        frames: F, the frames of a clip, over which statistics are taken together.
        silu: whether SiLU follows.

    Returns:
        The shape of `x`. Other arguments of `group_norm_silu` are ignored.
    """
    if frames > 1:
        clips = x.unflatten(0, (-1, frames)).transpose(1, 2).contiguous()
        y = F.group_norm(clips, groups, weight, bias, eps).transpose(1, 2).flatten(0, 1)
    else:
        y = F.group_norm(x.contiguous(), groups, weight, bias, eps)
    return F.silu(y) if silu else y


def released_temporal_attention(qkv: Tensor, *, rotary_dim: int, bias: Tensor | None = None, **_: Any) -> Tensor:
    """Stand in for `temporal_attention` with the released code's way: every step is an operation of its own.

    1. Copies bring the frames of each place of the picture together.
    2. Queries and keys are rotated by their frame (RoPE), in the first `rotary_dim` features.
    3. Scores, softmax and the sum of values are computed one after the other, so the scores are held in memory.

    Args:
        qkv: (B, F, S, 3, heads, D): F frames, S places, D features of a head; the axis of 3 holds q, k, v.
        rotary_dim: features that are rotated, even.
        bias: (heads, F, F), added to the scores.

    Returns:
        (B, F, S, heads, D), contiguous. Other arguments of `temporal_attention` are ignored.
    """
    q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).contiguous()  # (B, S, heads, F, D)
    frames = q.shape[-2]
    angle = torch.arange(frames, device=q.device)[:, None] * rotary_frequencies(rotary_dim).float().to(q.device)
    cosines, sines = (t.repeat_interleave(2, -1).to(q.dtype) for t in (angle.cos(), angle.sin()))

    def turn(x: Tensor) -> Tensor:
        """Turn the first `rotary_dim` dims of x (B, S, heads, F, D) by RoPE."""
        turning, rest = x[..., :rotary_dim], x[..., rotary_dim:]
        a, b = turning.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.cat([turning * cosines + torch.stack([-b, a], -1).flatten(-2) * sines, rest], -1)

    scores = (turn(q) * q.shape[-1] ** -0.5) @ turn(k).transpose(-1, -2)
    scores = scores if bias is None else scores + bias
    return (scores.softmax(-1) @ v).permute(0, 3, 1, 2, 4).contiguous()


@contextmanager
def separate(group_norm: Callable[..., Tensor]) -> Iterator[None]:
    """Let modules compute with separate operations in place of ours, and with a given GroupNorm."""
    with ExitStack() as stack:
        for module, name, stand_in in (
            (resnet_module, "group_norm_silu", group_norm),
            (resnet_module, "residual_block", partial(residual_block.separate_operations, norm=group_norm)),
            (attention_module, "temporal_attention", released_temporal_attention),
            (attention_module, "group_norm_linear", partial(group_norm_linear.separate_operations, norm=group_norm)),
            (attention_module, "geglu_linear", geglu.separate_operations),
            (attention_module, "norm_linear", norm_linear.separate_operations),
        ):
            stack.enter_context(mock.patch.object(module, name, stand_in))
        yield


def released(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `function` with the operations of the released code in place of ours, on its first argument contiguous."""

    def run(x: Tensor, *leaves: Tensor) -> Tensor:
        """Call the function with its operations exchanged."""
        with separate(released_group_norm):
            return function(x.contiguous(), *leaves)

    return run


def plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `function` as torch.compile gets it: the released operations, all traceable, GroupNorm without copies."""

    def group_norm(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        groups: int,
        eps: float,
        frames: int = 1,
        images: int = 0,
        silu: bool = True,
        **_: Any,
    ) -> Tensor:
        """Compute GroupNorm of x (N, C, H, W), pooled over a clip's frames and its images, by its formula."""
        if images:
            batch = len(x) // (frames + images)
            parts = [part.unflatten(0, (batch, -1)) for part in x.split([batch * frames, batch * images])]
            joined = torch.cat(parts, 1).flatten(0, 1)
            y = group_norm(joined, weight, bias, groups=groups, eps=eps, frames=frames + images, silu=silu)
            clips, alone = y.unflatten(0, (batch, -1)).split([frames, images], 1)
            return torch.cat([clips.flatten(0, 1), alone.flatten(0, 1)])
        v = x.permute(0, 2, 3, 1).unflatten(0, (-1, frames)).unflatten(-1, (groups, -1))
        v = (v - v.float().mean((1, 2, 3, 5), keepdim=True)) * (
            v.float().var((1, 2, 3, 5), keepdim=True, unbiased=False) + eps
        ).rsqrt()
        y = (v.flatten(-2).flatten(0, 1) * weight + bias).to(x.dtype).permute(0, 3, 1, 2)
        return F.silu(y) if silu else y

    def run(*leaves: Tensor) -> Tensor:
        """Call the function with its operations exchanged."""
        with separate(group_norm):
            return function(*leaves)

    return run


def block_case(config: UNetConfig, level: int, batch: int, frames: int, size: tuple[int, int], length: int) -> Case:
    """Return the case of one block of the UNet at a level, with the ways to run it that are compared."""
    layout, channels = Frames(frames, 0), config.block_out_channels[level]
    blocks = {backend: on_meta(lambda: Block(config, level), backend) for backend in BACKENDS}

    def run(backend: Backend, x: Tensor, time: Tensor, text: Tensor, *parameters: Tensor) -> Tensor:
        """Call the block with its operations on a backend."""
        return call(blocks[backend], parameters, x, time, text, layout)

    def make(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Return the block's inputs, then its parameters."""
        x = torch.randn(batch * frames, *size, channels, device=device, dtype=dtype).permute(0, 3, 1, 2)
        time = torch.randn(batch, 4 * config.block_out_channels[0], device=device, dtype=dtype)
        text = torch.randn(batch, 1, length, config.cross_attention_dim, device=device, dtype=dtype)
        return [x.requires_grad_(), time, text, *parameters_of(blocks["torch"], device, dtype)]

    name = f"block of level {level}, {frames} frames, B={batch}"
    definition = partial(run, "torch")
    ways = {
        "triton": Way(partial(run, "triton")),
        "torch": Way(definition),
        "released": Way(released(definition)),
        "compile": Way(plain(definition), compiled=True),
    }
    return Case(name, make, ways, definition, cost_of(definition, make), roundings=16)


def network_case(
    config: UNetConfig, batch: int, size: tuple[int, int], length: int, clip: int = CLIP, images: int = IMAGES
) -> Case:
    """Return the case of a training pass of the whole network, with the ways to run it that are compared.

    `released` is the released code's order of operations and of memory, with fused attention. Statistics are pooled, as
    its are.
    """
    config = config.model_copy(update={"norm_statistics": "pooled"})
    networks = {backend: on_meta(lambda: VideoUNet(config), backend) for backend in BACKENDS}
    as_released = on_meta(lambda: ReleasedNetwork(VideoUNet(config)), "torch")

    def run(backend: Backend, sample: Tensor, timestep: Tensor, text: Tensor, *parameters: Tensor) -> Tensor:
        """Call the network with its operations on a backend."""
        return call(networks[backend], parameters, sample, timestep, text, num_images=images)

    def make(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Return the network's inputs, then its parameters."""
        sample = torch.randn(batch, clip + images, *size, config.in_channels, device=device, dtype=dtype)
        text = torch.randn(batch, 1 + images, length, config.cross_attention_dim, device=device, dtype=dtype)
        timestep = torch.full((batch,), 500, device=device)
        return [sample.permute(0, 4, 1, 2, 3), timestep, text, *parameters_of(networks["torch"], device, dtype)]

    def run_released(sample: Tensor, timestep: Tensor, text: Tensor, *parameters: Tensor) -> Tensor:
        """Call the released way on the same leaves."""
        return call(as_released, parameters, sample, timestep, text, num_images=images)

    definition = partial(run, "torch")
    of_weights = (tuple(range(4)) if p.ndim == 4 else None for p in as_released.parameters())
    ways = {
        "triton": Way(partial(run, "triton")),
        "torch": Way(definition),
        "released": Way(run_released, orders=(tuple(range(5)), None, None, *of_weights)),
        "compile": Way(plain(definition), compiled=True),
    }
    name = f"training pass of the network, {clip} + {images} frames, B={batch}"
    return Case(name, make, ways, definition, cost_of(definition, make), roundings=16)


def on_meta(build: Callable[[], nn.Module], backend: Backend) -> nn.Module:
    """Build a module on the meta device, so without memory, for `call`; its operations run on `backend`."""
    with torch.device("meta"):
        module = build()
    set_backends(module, kernels=backend)
    return module


def call(module: nn.Module, parameters: Sequence[Tensor], *inputs: Any, **settings: Any) -> Tensor:
    """Return module(*inputs, **settings), computed with `parameters` in place of the module's own, in their order."""
    names = [name for name, _ in module.named_parameters()]
    return functional_call(module, dict(zip(names, parameters, strict=True)), inputs, settings)


def parameters_of(module: nn.Module, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return fresh random parameters of the shapes of a module's own; weights of convolutions are channels last."""
    result = []
    for parameter in module.parameters():
        scale = parameter.shape[1:].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        weight = torch.randn(parameter.shape, device=device, dtype=dtype) * scale
        if parameter.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        result.append(weight.requires_grad_())
    return result


def cost_of(run: Callable[..., Tensor], make: Callable[..., list[Tensor]]) -> Cost:
    """Return the cost of a pass: FLOPs counted on meta tensors, bytes of the inputs, parameters and output.

    A deep network must move far more bytes than these, since intermediate results are left out.
    """
    meta = torch.device("meta")
    leaves = make(meta, torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        output = run(*leaves)
    flops = counter.get_total_flops()
    moved = sum(t.numel() * t.element_size() for t in [*leaves, output])
    return Cost(moved, 2 * moved, flops, 2 * flops)


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the cases to time: blocks of three levels and the network at full size, or miniatures if `tiny`."""
    if tiny:
        config = UNetConfig(
            block_out_channels=(32, 64),
            cross_attention=(False, False),
            layers_per_block=1,
            num_attention_heads=1,
            cross_attention_dim=24,
            norm_num_groups=8,
        )
        yield block_case(config, 0, 2, 5, (4, 6), 7)
        yield network_case(config, 1, (2, 4), 7, clip=3, images=1)
        return
    config = UNetConfig()
    for level, size in enumerate(((40, 64), (20, 32), (10, 16))):
        for batch in (1, 4):
            yield block_case(config, level, batch, CLIP, size, 77)
    yield network_case(config, 1, (40, 64), 77)


if __name__ == "__main__":
    main("unet", cases)
