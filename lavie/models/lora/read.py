"""Reading a LoRA: from any of the files that people have to one change for each weight, or one line that refuses it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config.model import UNetConfig
from ...errors import CheckpointError
from ...json_text import parse_json
from ..unet import VideoUNet
from .change import Change, Hadamard, Kronecker, LowRank, Whole
from .contents import Contents, open_lora
from .keys import LAYOUTS, TOKEN, KeyReader, Place
from .names import TEXT_ROOT, spatial_modules
from .recognise import WANTED, refuse_adapters, refuse_said, what_else

PEFT_METADATA = "lora_adapter_metadata"
"""The text in diffusers' files that holds peft's settings as JSON, each with the name of its network before it."""
NETWORK_ADVICE = "; give the network of another size that it is of: --network"
"""What is said of unknown modules where nobody has named a network."""

Scale = Callable[[str, int], float]
"""Gives the alpha of a module of a rank where no tensor of the file says it."""


@dataclass(frozen=True)
class LoraFile:
    """The changes that a LoRA makes."""

    source: str
    """The file or folder that was read."""
    layout: str
    """How it is laid out: a value of LAYOUTS."""
    unet: Mapping[str, Change]
    """By the names of the UNet's weights in a plain state dict."""
    text: Mapping[str, Change]
    """By the names of the text encoder's weights, without a leading `text_model.`."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Keys that are no part of a change, and why: embeddings of new words."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The texts that the file has about itself."""

    @property
    def text_width(self) -> int | None:
        """The text features that the LoRA's network reads, where it changes a layer that reads them."""
        ends = (".attn2.to_k.weight", ".attn2.to_v.weight")
        return next((change.shape[1] for name, change in self.unet.items() if name.endswith(ends)), None)


def read_lora(path: str | Path, network: VideoUNet | None = None) -> LoraFile:
    """Return what a LoRA file, or folder, changes.

    Layouts: kohya's and A1111's, diffusers' old and new, peft's folders, and the numbered layers of 2022; in the first,
    LoHa, LoKr, Tucker forms and whole differences too. Only tensors are read; nothing in a file is run.

    Args:
        path: .safetensors, or .bin, .pt, .pth, .ckpt of plain tensors; or a folder.
        network: whose modules the file names; may be on the meta device. Default: Stable Diffusion 1.4's.

    Raises:
        CheckpointError: the file is something else, which the message names; it is of another network; a key is
            unknown, or a tensor is missing, there twice, misshapen, of integers or not finite.
    """
    advice = NETWORK_ADVICE if network is None else ""
    found = [_read(contents, network or released_network(), advice) for contents in open_lora(path)]
    merged = found[0]
    for other in found[1:]:
        if twice := (merged.unet.keys() & other.unet.keys()) | (merged.text.keys() & other.text.keys()):
            raise CheckpointError(
                f"{path}: {min(twice)} stands there twice, in {merged.source} and {other.source}: wanted one of them"
            )
        merged = LoraFile(
            str(path), merged.layout, {**merged.unet, **other.unet}, {**merged.text, **other.text}, metadata={}
        )
    return merged


@cache
def released_network() -> VideoUNet:
    """Return the network of Stable Diffusion 1.4's sizes, without data."""
    with torch.device("meta"):
        return VideoUNet(UNetConfig())


def _read(contents: Contents, network: VideoUNet, advice: str) -> LoraFile:
    """Return what one file changes in `network` and its text encoder; `advice` ends the refusal of unknown modules."""
    # What the keys and the header betray is told before any tensor is read: the file may be a checkpoint of many GB.
    source = contents.source
    refuse_said(source, contents.metadata)
    reader = KeyReader(spatial_modules(network), network.config.layers_per_block)
    places = {key: reader.place(key, text=contents.text) for key in contents.keys}
    known = {key: place for key, place in places.items() if place is not None}
    refuse_adapters(source, contents.keys)
    if not known:
        raise CheckpointError(f"{source} is {what_else(contents.keys)}: {WANTED}")
    # Files of one layout may hold keys of a plainer one too: what is particular tells them.
    layout = LAYOUTS[min((place.layout for place in known.values()), key=list(LAYOUTS).index)]
    unread = _leftovers(source, layout, places, advice)

    # The tensors of each weight, then its change.
    tensors: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in contents.load().items():
        if (place := known.get(key)) is not None:
            _require_weights(source, key, place, tensor)
            of_module = tensors.setdefault((place.network, place.module), {})
            if place.part in of_module:
                raise CheckpointError(
                    f"{source}: {place.module} stands there twice, by {key} and another key for its {place.part}: "
                    "wanted one set of keys for each layer"
                )
            of_module[place.part] = tensor
    unet: dict[str, Change] = {}
    text: dict[str, Change] = {}
    for (which, module), parts in tensors.items():
        alpha = _said_alpha(contents, which)
        (unet if which == "unet" else text).update(_changes(source, module, parts, alpha))
    return LoraFile(source, layout, unet, text, unread, contents.metadata)


def _require_weights(source: str, key: str, place: Place, tensor: Tensor) -> None:
    """Raise CheckpointError unless a tensor holds finite floats; alpha may be an integer."""
    whole = place.part == "alpha" and not tensor.is_complex() and tensor.dtype != torch.bool
    if not (tensor.is_floating_point() or whole):
        raise CheckpointError(f"{source}: {key} is {str(tensor.dtype).removeprefix('torch.')}, wanted floats")
    if not tensor.numel():
        raise CheckpointError(
            f"{source}: {key} is {tuple(tensor.shape)}, without any number: wanted a rank of 1 or more"
        )
    if not torch.isfinite(tensor.float()).all():
        raise CheckpointError(f"{source}: {key} has values that are not finite: the file is damaged")


def _leftovers(source: str, layout: str, places: Mapping[str, Place | None], advice: str) -> dict[str, str]:
    """Return the keys that are left unread, with reasons; CheckpointError, with advice, if another one is unknown."""
    unread = {}
    strangers = []
    for key, place in places.items():
        if place is None and TOKEN.fullmatch(key):
            unread[key] = "the embedding of a new word, which a LoRA's loading does not add"
        elif place is None or not place.known:
            strangers.append(key)
    if strangers:
        raise CheckpointError(
            f"{source} is a LoRA in the layout {layout} with {len(strangers)} of {len(places)} keys of no module here, "
            f"as {', '.join(strangers[:3])}: {WANTED}{advice}"
        )
    return unread


def _said_alpha(contents: Contents, network: str) -> Scale:
    """Return the alphas by peft's settings, of its config or in diffusers' metadata; without any, alpha is the rank."""
    settings = contents.peft
    if settings is None and PEFT_METADATA in contents.metadata:
        prefix = "unet." if network == "unet" else "text_encoder."
        try:
            values = parse_json(contents.metadata[PEFT_METADATA])
            settings = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        except (ValueError, AttributeError) as error:
            why = f" ({error})" if isinstance(error, ValueError) else ""
            raise CheckpointError(f"{contents.source}: its metadata {PEFT_METADATA} is no JSON object{why}") from None
    if not settings:
        return lambda module, rank: float(rank)
    return _peft_alpha(contents.source, settings)


def _peft_alpha(source: str, settings: Mapping[str, Any]) -> Scale:
    """Return the alphas by peft's settings; CheckpointError if they ask for another kind of adapter."""
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA" or settings.get("use_dora"):
        raise CheckpointError(f"{source}: peft_type {'DoRA' if kind == 'LORA' else kind} is not read: {WANTED}")
    for name in ("fan_in_fan_out", "modules_to_save", "lora_bias"):
        if settings.get(name):
            raise CheckpointError(f"{source}: peft's {name} is not read: {WANTED}")
    pattern, rooted = settings.get("alpha_pattern") or {}, bool(settings.get("use_rslora"))
    if not isinstance(pattern, dict):
        raise CheckpointError(
            f"{source}: alpha_pattern is {type(pattern).__name__}: wanted an object of alphas by module"
        )
    odd = next((key for key in pattern if set(key) & set("^$*+?{}[]\\|()")), None)
    if odd is not None:
        raise CheckpointError(f"{source}: alpha_pattern {odd!r} is a regular expression: wanted names of modules")
    said = {"lora_alpha": settings["lora_alpha"]} if "lora_alpha" in settings else {}
    for key, value in {**said, **{f"alpha_pattern {key!r}": value for key, value in pattern.items()}}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CheckpointError(f"{source}: {key} is {ascii(value)[:80]}: wanted a finite number")

    def alpha(module: str, rank: int) -> float:
        """Return a module's alpha; that of a rank-stabilised LoRA is divided by the rank's root only."""
        named = (v for k, v in pattern.items() if f".{TEXT_ROOT}{module}".endswith(f".{k}"))
        value = next(named, None)
        value = float(settings.get("lora_alpha", rank) if value is None else value)
        return value * math.sqrt(rank) if rooted else value

    return alpha


def _changes(source: str, module: str, parts: Mapping[str, Tensor], said: Scale) -> dict[str, Change]:
    """Return the changes of a module's weight and bias that its tensors make.

    Raises:
        CheckpointError: a tensor is missing, or they do not fit one another.
    """
    left = dict(parts)
    changes: dict[str, Change] = {}
    if "diff_b" in left:
        changes[f"{module}.bias"] = Whole(left.pop("diff_b"))
    alpha = float(left.pop("alpha")) if "alpha" in left and left["alpha"].numel() == 1 else None

    def multiplier(rank: int) -> float:
        """Return alpha / rank, which float32 must hold: the factors are multiplied by it."""
        value = (said(module, rank) if alpha is None else alpha) / max(rank, 1)
        if not abs(value) <= torch.finfo(torch.float32).max:
            raise CheckpointError(f"{source}: {module}: alpha / rank is {value:g}: wanted a number that float32 holds")
        return value

    try:
        if "down" in left:
            up, down, mid = left.pop("up"), left.pop("down"), left.pop("mid", None)
            ranks = {up.shape[1], down.shape[0]} if mid is None else {up.shape[1], down.shape[0], *mid.shape[:2]}
            if len(ranks) != 1 or up.flatten(1).shape[1] != down.shape[0]:
                raise ValueError(f"up {tuple(up.shape)} and down {tuple(down.shape)} are of different ranks")
            change: Change | None = LowRank(up, down, mid, multiplier(down.shape[0]))
        elif left.keys() & {"up", "mid"}:
            raise KeyError("down")
        elif "hada_w1_a" in left:
            names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
            w1_a, w1_b, w2_a, w2_b = (left.pop(name) for name in names)
            t1, t2 = left.pop("hada_t1", None), left.pop("hada_t2", None)
            change = Hadamard(w1_a, w1_b, w2_a, w2_b, t1, t2, multiplier(w1_b.shape[0]))
        elif left.keys() & {"lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a"}:
            change = _kronecker(left, multiplier)
        elif "diff" in left:
            change = Whole(left.pop("diff"))
        else:
            change = None
        if isinstance(change, Hadamard | Kronecker):
            change.delta("meta")  # costs nothing, and meets factors that do not fit one another
    except KeyError as error:
        name = {"up": "lora_up (lora_B)", "down": "lora_down (lora_A)"}.get(error.args[0], error.args[0])
        raise CheckpointError(f"{source}: {module} has no tensor {name}: the file is incomplete") from None
    except (IndexError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{source}: {module}: its tensors do not fit one another: {error}") from None
    if change is None and not changes:
        there = ", ".join(sorted(parts))
        raise CheckpointError(
            f"{source}: {module} has {there} alone: its change, as lora_up and lora_down, is missing: the file is "
            "incomplete"
        )
    if left:
        raise CheckpointError(f"{source}: {module} has {', '.join(sorted(left))} beside its change")
    return changes if change is None else {f"{module}.weight": change, **changes}


def _kronecker(left: dict[str, Tensor], multiplier: Callable[[int], float]) -> Kronecker:
    """Take the tensors of a LoKr out of `left`. Where both halves are whole there is no rank: alpha says nothing."""
    rank = None
    halves: list[tuple[Tensor, ...]] = []
    for name in ("lokr_w1", "lokr_w2"):
        if name in left:
            halves.append((left.pop(name),))
            continue
        a, b = left.pop(f"{name}_a"), left.pop(f"{name}_b")
        core = left.pop("lokr_t2", None) if name == "lokr_w2" else None
        halves.append((a, b) if core is None else (a, b, core))
        rank = b.shape[0]
    left.pop("lokr_t2", None)
    return Kronecker(halves[0], halves[1], 1.0 if rank is None else multiplier(rank))
