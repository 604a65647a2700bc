"""From the keys of a LoRA file to weights: which module of which network, and which part of its change."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .names import TEXT_ROOT, flat_names, numbered_text, numbered_unet, text_name

PARTS = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "alpha": "alpha",
    "diff": "diff",
    "diff_b": "diff_b",
    "w_norm": "diff",
    "b_norm": "diff_b",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{name: name for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
}
"""The ends of keys, and the parts of a change that they are."""
OLD = re.compile(r"(?P<module>.+?)(?:\.processor)?\.(?P<layer>to_[qkv]|to_out)_lora\.(?P<part>down|up)\.weight")
"""A key of diffusers before 0.20: the layer's name is in the end."""
NUMBERED = re.compile(r"(?P<network>unet|text_encoder):(?P<number>\d+):(?P<part>up|down)")
"""A key of the files of 2022."""
FLAT_PREFIXES = {"lora_unet_": "unet", "lora_te_": "text", "lora_te1_": "text"}
DOTTED_PREFIXES = {"unet.": "unet", "text_encoder.": "text", "base_model.model.": "peft"}
TOKEN = re.compile(r"<.+>|bundle_emb\..+")
"""A key of an embedding of a new word that comes with a LoRA."""
LAYOUTS = {
    "numbered": "numbered layers (2022)",
    "kohya": "kohya",
    "old": "diffusers (old)",
    "peft": "peft",
    "diffusers": "diffusers",
}
"""The layouts of files, and how they are called; the most particular first."""


class Place(NamedTuple):
    """What one key is of."""

    network: str
    """unet or text."""
    module: str
    """Its name here, or the file's own where no such module is known."""
    part: str
    """A value of PARTS."""
    layout: str
    """A key of LAYOUTS."""
    known: bool
    """Whether there is such a module."""


class KeyReader:
    """Reads the keys of LoRA files for the modules of one UNet."""

    def __init__(self, names: Iterable[str], layers_per_block: int):
        """Take the UNet's modules.

        Args:
            names: their names.
            layers_per_block: the UNet's, by which ldm's names count.
        """
        names = list(names)
        self.names = frozenset(names)
        self.flat: Mapping[str, str] = flat_names(names, layers_per_block)
        self.numbered = numbered_unet(names)

    def place(self, key: str, *, text: bool = False) -> Place | None:
        """Return what a key is of; None if it is no key of a LoRA.

        Args:
            key: the file's.
            text: whether all modules of the file are a text encoder's.
        """
        if match := NUMBERED.fullmatch(key):
            return self._numbered(match)
        module, part, layout = _split(key)
        if part is None:
            return None
        for prefix, network in FLAT_PREFIXES.items():
            if module.startswith(prefix):
                flat = module.removeprefix(prefix)
                name = self.flat.get(flat) if network == "unet" else text_name(flat)
                return Place(network, name or module, part, "kohya", name is not None)
        return self._dotted(module, part, layout, text)

    def _numbered(self, match: re.Match[str]) -> Place:
        """Return what a key of the files of 2022 is of."""
        number = int(match["number"])
        if match["network"] == "text_encoder":
            return Place("text", numbered_text(number), match["part"], "numbered", True)
        known = number < len(self.numbered)
        name = self.numbered[number] if known else f"unet:{number}"
        return Place("unet", name, match["part"], "numbered", known)

    def _dotted(self, module: str, part: str, layout: str, text: bool) -> Place:
        """Return what a key with a module's dotted name is of."""
        network = "text" if text else ""
        for prefix, kind in DOTTED_PREFIXES.items():
            if module.startswith(prefix):
                module = module.removeprefix(prefix)
                network, layout = (network, "peft") if kind == "peft" else (kind, layout)
                break
        if not network:
            network = "text" if module.startswith((TEXT_ROOT, "encoder.layers.")) else "unet"
        if network == "text":
            name = _text_layer(module)
            return Place("text", name, part, layout, text_name(name.replace(".", "_")) is not None)
        return Place("unet", module, part, layout, module in self.names)


def _split(key: str) -> tuple[str, str | None, str]:
    """Return a key's module, the part of its change (None if it is none) and the layout that the end betrays."""
    if match := OLD.fullmatch(key):
        layer = "to_out.0" if match["layer"] == "to_out" else match["layer"]
        return f"{match['module']}.{layer}", match["part"], "old"
    for end, part in PARTS.items():
        if key.endswith(f".{end}"):
            return key.removesuffix(f".{end}"), part, "diffusers"
    return key, None, ""


def _text_layer(module: str) -> str:
    """Return a layer of the text model without its root, and with transformers' names of the attention's layers."""
    module = module.removeprefix(TEXT_ROOT)
    for theirs, ours in (("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out.0", "out_proj")):
        if module.endswith(f".{theirs}"):
            return f"{module.removesuffix(theirs)}{ours}"
    return module
