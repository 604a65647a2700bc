"""The layers of the networks in float64, by loops and einsum, from their definitions, without code of lavie.models."""

import torch
from torch import Tensor


def random_weights(module, seed=0):
    """Return the module in float64, with random numbers in every parameter: those that start at zero or one, too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.requires_grad_(False)


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attend(layer, queries: Tensor, keys: Tensor, turn: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Multi-head attention of one sequence, with a layer's weights: (S, C) reads (L, K) and becomes (S, C).

    Args:
        turn: complex (S, R / 2): RoPE's factors of the first R dims of q and k, which lie in pairs.
        bias: (heads, S, L), added to the scores.
    """
    outputs = []
    width = len(layer.to_q.weight) // layer.heads
    for head in range(layer.heads):
        rows = slice(head * width, (head + 1) * width)
        q = torch.einsum("sc,dc->sd", queries, layer.to_q.weight[rows])
        k = torch.einsum("lc,dc->ld", keys, layer.to_k.weight[rows])
        v = torch.einsum("lc,dc->ld", keys, layer.to_v.weight[rows])
        if turn is not None:
            q, k = rotated(q, turn), rotated(k, turn)
        scores = torch.einsum("sd,ld->sl", q, k) / width**0.5
        weights = (scores if bias is None else scores + bias[head]).exp()
        outputs.append(torch.einsum("sl,ld->sd", weights / weights.sum(1, keepdim=True), v))
    return torch.einsum("sc,dc->sd", torch.cat(outputs, 1), layer.to_out[0].weight) + layer.to_out[0].bias


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the pairs of the first dims of x (F, D) by complex factors (F, R / 2)."""
    y = x.clone()
    for frame, factors in enumerate(turn):
        for pair, factor in enumerate(factors):
            number = torch.complex(x[frame, 2 * pair], x[frame, 2 * pair + 1]) * factor
            y[frame, 2 * pair], y[frame, 2 * pair + 1] = number.real, number.imag
    return y


def rotary_factors(frames: int, rotary_dim: int) -> Tensor:
    """RoPE's factors, complex (F, R / 2): frame f turns pair i by f * 10000 ** (-2 i / R) radians."""
    angles = [[f * 10000.0 ** (-2 * i / rotary_dim) for i in range(rotary_dim // 2)] for f in range(frames)]
    return torch.exp(1j * torch.tensor(angles, dtype=torch.float64))


def layer_norm(layer, x: Tensor) -> Tensor:
    """Normalise each row of x (..., C)."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def group_norm(layer, groups: int, eps: float, *samples: Tensor) -> list[Tensor]:
    """Normalise each sample (F, C, H, W) by the mean and variance of a group of channels in all its frames."""
    outputs = []
    for x in samples:
        y = torch.empty_like(x)
        width = x.shape[1] // groups
        for group in range(groups):
            channels = slice(group * width, (group + 1) * width)
            part = x[:, channels]
            y[:, channels] = (part - part.mean()) / (part.var(correction=0) + eps).sqrt()
        outputs.append(y * layer.weight[:, None, None] + layer.bias[:, None, None])
    return outputs


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def spatial_conv(layer, x: Tensor, stride: int = 1) -> Tensor:
    """Convolve x (N, C, H, W) with the layer's kernel, K x K, zeros beyond the edge: a sum over its taps."""
    size = layer.weight.shape[-1]
    reach = size // 2
    height, width = x.shape[2:]
    padded = x.new_zeros(*x.shape[:2], height + 2 * reach, width + 2 * reach)
    padded[:, :, reach : reach + height, reach : reach + width] = x
    taps = [
        torch.einsum("nchw,dc->ndhw", padded[:, :, i : i + height, j : j + width], layer.weight[:, :, i, j])
        for i in range(size)
        for j in range(size)
    ]
    return (sum(taps) + layer.bias[:, None, None])[:, :, ::stride, ::stride]


def temporal_conv(layer, clip: Tensor) -> Tensor:
    """Convolve a clip (F, C, H, W) over its frames, with zeros before the first and after the last one."""
    taps = layer.weight.shape[2]
    y = torch.zeros_like(clip) + layer.bias[:, None, None]
    for frame in range(len(clip)):
        for tap in range(taps):
            source = frame + tap - taps // 2
            if 0 <= source < len(clip):
                y[frame] += torch.einsum("chw,dc->dhw", clip[source], layer.weight[:, :, tap, 0, 0])
    return y


def linear(layer, x: Tensor) -> Tensor:
    y = torch.einsum("...c,dc->...d", x, layer.weight)
    return y if layer.bias is None else y + layer.bias


def temporal_block(block, clip: Tensor, time: Tensor | None = None) -> Tensor:
    """A temporal residual block on one clip (F, C, H, W); time: (T,)."""
    h = temporal_conv(block.conv1, silu(*group_norm(block.norm1, 32, 1e-6, clip)))
    if time is not None:
        h = h + linear(block.time_emb_proj, silu(time))[:, None, None]
    return clip + temporal_conv(block.conv2, silu(*group_norm(block.norm2, 32, 1e-6, h)))


def resnet_block(block, groups: int, eps: float, x: Tensor, time: Tensor) -> Tensor:
    """A spatial residual block on what shares its statistics, (F, C, H, W); time: (T,)."""
    h = spatial_conv(block.conv1, silu(*group_norm(block.norm1, groups, eps, x)))
    h = h + linear(block.time_emb_proj, silu(time))[:, None, None]
    h = spatial_conv(block.conv2, silu(*group_norm(block.norm2, groups, eps, h)))
    return h + (x if block.conv_shortcut is None else spatial_conv(block.conv_shortcut, x))


def parts(x: Tensor, batch: int, video: int, images: int) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Take a folded batch apart: the clips (video, ...), and the images (1, ...) of each; all clips come first."""
    clips = [x[b * video : (b + 1) * video] for b in range(batch)]
    first = batch * video
    return clips, [[x[first + b * images + i][None] for i in range(images)] for b in range(batch)]


def whole(clips: list[Tensor], images: list[list[Tensor]]) -> Tensor:
    """Undo `parts`."""
    return torch.cat([*clips, *(image for row in images for image in row)])
