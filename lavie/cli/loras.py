"""The option --lora of the commands that draw, and of `lavie lora merge`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..models.lora.choice import LoraChoice

Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE[:TEXT_SCALE]]",
        help="A LoRA of Stable Diffusion 1.x or of this trainer, added to the weights with a scale (default 1); may be "
        "given several times, in any order. TEXT_SCALE is that of the text encoder's part, by default the same.",
    ),
]
LoraTextScale = Annotated[
    float | None,
    typer.Option(help="The scale of the text encoder's part of every --lora that names none; default: its SCALE."),
]


def read_loras(loras: Sequence[str] | None, text_scale: float | None = None) -> "list[LoraChoice]":
    """Return what --lora and --lora-text-scale ask for.

    Raises:
        ConfigError: a scale is no finite number, or there is one for the text and no LoRA.
    """
    if text_scale is not None and not loras:
        raise ConfigError(f"--lora-text-scale {text_scale:g}: there is no --lora")
    if not loras:
        return []
    from ..models.lora.choice import LoraChoice

    return [LoraChoice.parse(text, text_scale) for text in loras]
