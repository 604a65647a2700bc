"""LoRA adapters that train: a weight W of the spatial part becomes W + (alpha / r) * B @ A, and W is frozen.

The sum is a parametrization of torch.nn.utils.parametrize, so the network's forward pass stays as it is: layers that
multiply with each other's weights, packed into one matrix, see the sum (Hu et al., 2022, for A and B; paper, section
5.6, for LoRA on the spatial layers with the temporal ones frozen).

While adapters are attached, the names of parameters are those of parametrizations. Whatever is saved has plain names:

    ...attn1.to_q.parametrizations.weight.original     is saved as    ...attn1.to_q.weight
    ...attn1.to_q.parametrizations.weight.0.lora_A     is saved as    ...attn1.to_q.lora_A.weight
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...errors import CheckpointError, ConfigError
from ...seeds import torch_generator
from ..state_dict import require_fit, shapes
from ..unet import VideoUNet
from .names import spatial_modules, weight_shape

ATTENTION = re.compile(r"\.attn[12]\.to_(q|k|v|out\.0)$")
BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
ORIGINAL = re.compile(r"\.parametrizations\.(weight|bias)\.original$")
ADAPTER = re.compile(r"\.parametrizations\.weight\.\d+\.(lora_[AB])$")


class LowRankAdapter(nn.Module):
    """The parametrization W -> W + (alpha / r) * B @ A of the weight of a linear layer or a 2-D convolution."""

    keep: Tensor | None = None
    """What `draw_dropout` has drawn: (r,), 0 for ranks that are left out while training."""

    def __init__(self, weight: Tensor, shape: torch.Size, rank: int, alpha: float, dropout: float):
        """Make A and B as zeros, on the device and in the dtype of the weight.

        Args:
            weight: of the layer.
            shape: of the layer's weight, (out, in) or (out, in, kh, kw).
            rank: r.
            alpha: the sum is scaled by alpha / r.
            dropout: the share of ranks that training leaves out at a step.
        """
        super().__init__()
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.lora_A = nn.Parameter(weight.new_zeros(rank, *shape[1:]))
        self.lora_B = nn.Parameter(weight.new_zeros(shape[0], rank, *(1,) * (len(shape) - 2)))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the sum, in the shape and dtype of `weight`."""
        up = self.alpha / self.rank * self.lora_B.flatten(1)
        if self.training and self.keep is not None:
            up = up * self.keep.to(up)
        return (weight + (up @ self.lora_A.flatten(1)).view_as(weight)).to(weight.dtype)


def target_modules(network: VideoUNet, targets: str) -> dict[str, nn.Module]:
    """Return the layers of the spatial part that adapters are for, by name.

    Args:
        network: any stage's.
        targets: attention: queries, keys, values and outputs of the spatial transformers (128 layers of the base
            network). kohya: every linear layer and 1x1 convolution of these transformers (192), as kohya's scripts
            take. conv: those, and the residual blocks and resamplers (278). The input and output layers and the
            embedding of time are none of them.

    Raises:
        ConfigError: targets is none of these.
    """
    found = spatial_modules(network)
    layers: dict[str, nn.Module] = {
        name: module
        for name, module in found.items()
        if name.startswith(BLOCKS) and isinstance(module, nn.Linear | nn.Conv2d)
    }
    if targets == "attention":
        return {name: module for name, module in layers.items() if ATTENTION.search(name)}
    if targets == "kohya":
        return {name: module for name, module in layers.items() if ".attentions." in name}
    if targets == "conv":
        return layers
    raise ConfigError(f"lora.targets is {targets!r}: wanted attention, kohya or conv")


def add_lora(
    network: VideoUNet,
    targets: str = "attention",
    rank: int = 4,
    alpha: float | None = None,
    dropout: float = 0.0,
    *,
    seed: int = 0,
) -> dict[str, nn.Parameter]:
    """Attach adapters to layers of the spatial part, freeze all else, and return the adapters' parameters.

    A is drawn from a normal distribution of standard deviation 1 / r, as diffusers' scripts do, and B is zero: at first
    the network computes what it did. A depends on the seed and the layer's name only, on any rank of a run.

    Args:
        network: whose weights have no adapters that train yet.
        targets: see `target_modules`.
        rank: r, 1 or more, and at most the width of every layer.
        alpha: the sum is W + alpha / r * B @ A. Default: r.
        dropout: 0 <= p < 1; with p of 0 nothing is drawn. A share p of the r ranks is left out of the sum in training,
            and the others are multiplied by 1 / (1 - p): see `draw_dropout`.
        seed: of A.

    Returns:
        By plain names, `<module>.lora_A.weight` (r, in[, kh, kw]) and `<module>.lora_B.weight` (out, r[, 1, 1]), in the
        dtype and on the device of the weights. They are the only parameters of the network that train.

    Raises:
        ConfigError: an argument is out of range; it names the layer that is too narrow for the rank.
    """
    modules = target_modules(network, targets)
    alpha = float(rank) if alpha is None else float(alpha)
    _check(modules, rank, alpha, dropout)
    assert not adapters(network), "the network has adapters already"

    network.requires_grad_(False)
    found: dict[str, nn.Parameter] = {}
    for name, module in modules.items():
        adapter = LowRankAdapter(_original(module), weight_shape(module), rank, alpha, dropout)
        if not adapter.lora_A.is_meta:
            drawn = torch.randn(adapter.lora_A.shape, generator=torch_generator(seed, f"lora/{name}"))
            with torch.no_grad():
                adapter.lora_A.copy_(drawn / rank)
        adapter.train(module.training)
        # unsafe: the check would compute the sum once; shape and dtype of ours are the weight's.
        parametrize.register_parametrization(module, "weight", adapter, unsafe=True)
        found[f"{name}.lora_A.weight"], found[f"{name}.lora_B.weight"] = adapter.lora_A, adapter.lora_B
    return found


def _check(modules: Mapping[str, nn.Module], rank: int, alpha: float, dropout: float) -> None:
    """Raise ConfigError if a setting is out of range, or the rank exceeds the width of a layer."""
    if rank < 1:
        raise ConfigError(f"lora.rank is {rank}: wanted 1 or more")
    if not 0 < alpha < float("inf"):
        raise ConfigError(f"lora.alpha is {alpha:g}: wanted a number above 0")
    if not 0 <= dropout < 1:
        raise ConfigError(f"lora.dropout is {dropout:g}: wanted 0 or more, and less than 1")
    for name, module in modules.items():
        shape = weight_shape(module)
        width = min(shape[0], prod(shape[1:]))
        if rank > width:
            raise ConfigError(f"lora.rank is {rank}, and {name} has a width of {width}: wanted {width} or less")


def adapters(network: nn.Module) -> dict[str, LowRankAdapter]:
    """Return the adapters that train, by the names of their modules."""
    found = {}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            for part in module.parametrizations["weight"]:  # type: ignore[index,union-attr]
                if isinstance(part, LowRankAdapter):
                    found[name] = part
    return found


def draw_dropout(network: nn.Module, seed: int, step: int) -> None:
    """Draw which ranks of every adapter the next passes in training mode leave out: a function of (seed, step, name).

    Every rank of a run draws the same, so that all compute with one network, and gradient checkpointing, which computes
    twice, sees the same both times. Adapters without dropout are left alone.
    """
    for name, adapter in adapters(network).items():
        if adapter.dropout:
            drawn = torch.rand(adapter.rank, generator=torch_generator(seed, f"lora-dropout/{name}", step))
            adapter.keep = (drawn >= adapter.dropout).float() / (1 - adapter.dropout)


def plain_name(name: str) -> str:
    """Return the plain name of a parameter of a network with adapters; any other name stays."""
    if match := ADAPTER.search(name):
        return f"{name[: match.start()]}.{match[1]}.weight"
    return ORIGINAL.sub(r".\1", name)


def is_adapter(name: str) -> bool:
    """Return whether a parameter is an adapter's, by its name in the network or by its plain one."""
    return bool(ADAPTER.search(name)) or name.endswith((".lora_A.weight", ".lora_B.weight"))


def base_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the network's own weights without the adapters, by the names of a plain network."""
    return {plain_name(name): value for name, value in network.state_dict().items() if not is_adapter(name)}


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the adapters' tensors by plain names; see `add_lora`."""
    return {plain_name(name): value for name, value in network.state_dict().items() if is_adapter(name)}


def load_adapter_state(network: nn.Module, state: Mapping[str, Tensor], source: str = "adapters") -> None:
    """Copy tensors by plain names into the adapters: all of them, and nothing else.

    Raises:
        CheckpointError: one is missing, unexpected or of another shape.
    """
    own = adapter_state(network)
    if not own:
        raise CheckpointError(f"{source}: the network has no adapters to load it into: call add_lora first")
    require_fit(state, shapes(own), source, "the section lora")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


@torch.no_grad()
def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the network with its adapters summed in, by the names of a plain network.

    The network stays as it is. Dropout is left out. Weights without adapters are the network's own tensors.
    """
    state = {}
    with without_dropout(network):
        for name, value in network.state_dict().items():
            if is_adapter(name):
                continue
            plain = plain_name(name)
            if plain != name:
                module, _, parameter = plain.rpartition(".")
                value = getattr(network.get_submodule(module), parameter)
            state[plain] = value.detach()
    return state


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Let the adapters sum all of their ranks as long as the block runs."""
    training = {adapter: adapter.training for adapter in adapters(network).values()}
    for adapter in training:
        adapter.eval()
    try:
        yield
    finally:
        for adapter, mode in training.items():
            adapter.train(mode)


def _original(module: nn.Module) -> Tensor:
    """Return the weight of a layer as a parameter, also under what is attached to it."""
    if parametrize.is_parametrized(module, "weight"):
        return module.parametrizations["weight"].original  # type: ignore[index,union-attr,return-value]
    assert isinstance(module.weight, Tensor)
    return module.weight
