"""LoRA files on a network: loaded beside its weights, taken off again, or merged into them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...errors import CheckpointError, ConfigError
from ..text_encoder import ClipTextEncoder
from ..unet import VideoUNet
from .adapter import LowRankAdapter, without_dropout
from .change import Change, fitted, fitted_shape
from .names import parameter_shapes, spatial_modules, text_modules
from .read import LoraFile, read_lora
from .recognise import refuse_width

LARGEST_SCALE = 100.0
"""The largest scale of a file's changes, of either sign: people take scales around 1."""
LARGEST_WEIGHT = 65504.0
"""The largest weight that changes may make, the end of float16's range: networks are made of numbers around 1."""
TEXT_PART = "a layer of the text encoder: load_text_lora loads it"
UNET_PART = "a layer of the UNet: load_lora loads it"


@dataclass(frozen=True)
class LoraReport:
    """What loading a LoRA did with each weight that its file changes."""

    source: str
    """The file or folder that was read."""
    layout: str
    """How it is laid out."""
    scale: float
    """What its changes are multiplied by."""
    applied: tuple[str, ...]
    """The weights that it changes here, by their names in a plain state dict."""
    skipped: Mapping[str, str]
    """What it holds beside them, and why that was left out."""

    def __str__(self) -> str:
        left = f", {len(self.skipped)} left out" if self.skipped else ""
        return f"{self.source} ({self.layout}), scale {self.scale:g}: {len(self.applied)} weights changed{left}"


class Loaded(nn.Module):
    """The parametrization W -> W + sum of scale * change, of the LoRA files that change a weight.

    The sum of the changes is computed in float32 (float64 for such a weight) and then added, so that the order of the
    files hardly matters; factors stay in the files' dtypes on the CPU, whatever the network is moved to. A scale of 0
    leaves W bit for bit.
    """

    def __init__(self, name: str):
        """Take the weight's name in a plain state dict."""
        super().__init__()
        self.name = name
        self.terms: list[tuple[float, Change]] = []
        self.sources: list[str] = []
        """The file of each term."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the sum, in the dtype of `weight`."""
        deltas = [
            scale * fitted(self.name, change.delta(weight.device), weight.shape)
            for scale, change in self.terms
            if scale != 0
        ]
        if not deltas:
            return weight
        total = deltas[0]
        for delta in deltas[1:]:
            total = total + delta
        exact = torch.promote_types(weight.dtype, torch.float32)
        return (weight.to(exact) + total).to(weight.dtype)


def load_lora(network: VideoUNet, path: str | Path | LoraFile, scale: float = 1.0) -> LoraReport:
    """Let the spatial weights of a network be W + scale * change, with the changes of a LoRA file.

    Several files may be loaded, in any order: their changes add up. `merge_lora` writes the sums into the weights,
    which makes repeated use fast; `remove_lora` takes all files off again.

    Args:
        network: of the base or the interpolation stage for LoRAs of Stable Diffusion 1.x. Merge before it is moved to
            a dtype of 16 bits: its weights are rounded once then.
        path: see `read_lora`; or what it returned.
        scale: -100 .. 100; 0 changes nothing.

    Returns:
        The names of the changed weights, and what was left out: the parts of the text encoder, for `load_text_lora`.

    Raises:
        CheckpointError: the file is no LoRA, or does not fit the network; the network is as it was then.
        ConfigError: scale is out of its range, or `network` is none that LoRAs act on.
    """
    if not isinstance(network, VideoUNet):
        raise ConfigError(f"load_lora: got a network of type {type(network).__name__}, wanted a VideoUNet")
    require_scale(scale, "scale")
    file = path if isinstance(path, LoraFile) else read_lora(path, network)
    require_lora_fit(file, network)
    skipped = dict.fromkeys(file.text, TEXT_PART)
    return _load(file, file.unet, spatial_modules(network), scale, skipped)


def load_text_lora(encoder: ClipTextEncoder, path: str | Path | LoraFile, scale: float = 1.0) -> LoraReport:
    """Let weights of CLIP's text model be W + scale * change, with the text part of a LoRA file; see `load_lora`.

    `merge_lora` and `remove_lora` take the encoder's `model`, or the encoder itself.

    Raises:
        CheckpointError: the file is no LoRA, or its text part is of another text encoder.
        ConfigError: scale is out of its range, or `encoder` has no text model.
    """
    if not isinstance(encoder, ClipTextEncoder):
        raise ConfigError(f"load_text_lora: got an encoder of type {type(encoder).__name__}, wanted a ClipTextEncoder")
    require_scale(scale, "scale")
    file = path if isinstance(path, LoraFile) else read_lora(path)
    modules = text_modules(encoder.model)
    _require_fit(file.source, file.text, modules, "text encoder")
    return _load(file, file.text, modules, scale, dict.fromkeys(file.unet, UNET_PART))


def require_scale(scale: float, what: str) -> None:
    """Raise ConfigError, which begins with `what`, unless a scale is a number of -100 .. 100."""
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not number or not abs(scale) <= LARGEST_SCALE:
        raise ConfigError(f"{what} is {scale!r}: wanted a number of {-LARGEST_SCALE:g} .. {LARGEST_SCALE:g}")


def require_lora_fit(file: LoraFile, network: VideoUNet) -> None:
    """Check that every change of a LoRA has a weight in the network, in its shape.

    Args:
        file: what `read_lora` returned.
        network: may be on the meta device.

    Raises:
        CheckpointError: the first one that has none, or of which network the file is.
    """
    if file.text_width is not None:
        refuse_width(file.source, file.text_width, network.config.cross_attention_dim)
    _require_fit(file.source, file.unet, spatial_modules(network), "network")


def merge_lora(network: nn.Module) -> None:
    """Write W + the changes into the weights of a network or a text model, which is a plain one again afterwards.

    Its state dict has the keys of before, in their order. Adapters of `add_lora` are merged too.

    Raises:
        CheckpointError: a weight that files change is not finite with their changes, or beyond 65504, where float16
            ends and no network's weights are; the network is of no use then.
    """
    with without_dropout(network):
        _take_off(network, keep=True)


def remove_lora(network: nn.Module) -> None:
    """Take every LoRA off a network or a text model, whose weights are bit for bit those of before."""
    _take_off(network, keep=False)


def _load(
    file: LoraFile,
    changes: Mapping[str, Change],
    modules: Mapping[str, nn.Module],
    scale: float,
    skipped: Mapping[str, str],
) -> LoraReport:
    """Add changes to the parametrizations of the modules' weights, which are made where there is none."""
    for name, change in changes.items():
        module_name, _, parameter = name.rpartition(".")
        module = modules[module_name]
        loaded = _loaded(module, parameter, name)
        loaded.terms.append((float(scale), change))
        loaded.sources.append(file.source)
    return LoraReport(file.source, file.layout, float(scale), tuple(changes), {**skipped, **file.unread})


def _loaded(module: nn.Module, parameter: str, name: str) -> Loaded:
    """Return the parametrization of a layer's weight or bias that holds the files' changes."""
    if parametrize.is_parametrized(module, parameter):
        for part in module.parametrizations[parameter]:  # type: ignore[index,union-attr]
            if isinstance(part, Loaded):
                return part
    loaded = Loaded(name)
    # unsafe: the check would compute the sum once; shape and dtype of ours are the weight's.
    parametrize.register_parametrization(module, parameter, loaded, unsafe=True)
    return loaded


def _require_fit(source: str, changes: Mapping[str, Change], modules: Mapping[str, nn.Module], what: str) -> None:
    """Raise CheckpointError if a change has no weight among the modules', or one of another shape."""
    shapes = parameter_shapes(modules)
    for name, change in changes.items():
        if name not in shapes:
            raise CheckpointError(f"{source} changes {name}, which the {what} does not have: it is of another one")
        if fitted_shape(name, change.shape, shapes[name]) is None:
            raise CheckpointError(
                f"{source} changes {name} by {tuple(change.shape)}, and the {what} has it as {tuple(shapes[name])}: it "
                "is of another one"
            )


def _take_off(network: nn.Module, keep: bool) -> None:
    """Remove the parametrizations of this package; `keep`: with their sums as the weights."""
    for module in list(network.modules()):
        for parameter in ("weight", "bias"):
            if not parametrize.is_parametrized(module, parameter):
                continue
            parts = module.parametrizations[parameter]  # type: ignore[index,union-attr]
            if not any(isinstance(part, Loaded | LowRankAdapter) for part in parts):
                continue
            parametrize.remove_parametrizations(module, parameter, leave_parametrized=keep)
            # The parameter came back behind the others: a state dict would have another order than before.
            for other in [name for name in ("weight", "bias") if name in module._parameters]:
                module._parameters[other] = module._parameters.pop(other)
            for part in parts if keep else ():
                if isinstance(part, Loaded):
                    _require_sane(part, getattr(module, parameter))


def _require_sane(loaded: Loaded, weight: Tensor) -> None:
    """Raise CheckpointError if a weight that files have changed is not finite, or larger than any network's."""
    used = [f"{source}:{term[0]:g}" for source, term in zip(loaded.sources, loaded.terms, strict=True) if term[0] != 0]
    if not used or weight.is_meta:
        return
    largest = float(weight.detach().abs().max())  # NaN where one is
    if not largest <= LARGEST_WEIGHT:
        kind = str(weight.dtype).removeprefix("torch.")
        what = f"as large as {largest:.3g}" if math.isfinite(largest) else f"not finite in {kind}"
        raise CheckpointError(
            f"--lora {' and '.join(used)}: {loaded.name} is {what} with the changes: give smaller scales, or another "
            "file"
        )
