"""The options of the commands that draw from prompts."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config.base import Strict
    from ..inference.prompt_file import Request

Prompt = Annotated[
    list[str] | None,
    typer.Option(
        help="What to draw; may be given several times. (fox:1.3) and (fox) count more, [fox] less; \\( is a bracket."
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        help='A text file with one prompt per line, or a JSON object, as {"prompt": "a fox", "seed": 7}, whose other '
        "keys are settings of that prompt alone."
    ),
]
Embedding = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE|NAME=FILE",
        help="A word learnt by textual inversion (A1111's .pt or .safetensors, diffusers' .bin or .safetensors); "
        "prompts call it by NAME or as the file does. May be given several times.",
    ),
]
Preview = Annotated[
    bool, typer.Option("--preview", help="Show each step of the clip that is being drawn in OUT/preview.png.")
]
GridSeeds = Annotated[
    str | None,
    typer.Option(help="Seeds, as 0,1,2: each prompt is drawn with each of them and each scale of --grid-guidance."),
]
GridGuidance = Annotated[
    str | None,
    typer.Option(help="Scales of guidance, as 4,7.5,10: the columns of sheet.png, whose rows are --grid-seeds."),
]


def read_prompts(prompts: list[str] | None, file: Path | None, kind: "type[Strict]") -> "list[Request]":
    """Return the prompts of --prompt, then those of --prompt-file.

    Args:
        kind: the settings that a line of the file may change.

    Raises:
        ConfigError: the file cannot be read, a line of it is faulty, or there is no prompt at all.
    """
    from ..inference.prompt_file import as_requests, read_requests

    found = as_requests(prompts or [])
    if file:
        found += read_requests(file, kind)
    if not found:
        raise ConfigError("got no prompt: wanted --prompt or --prompt-file")
    return found


def require_set_once(settings: Iterable[str]) -> None:
    """Raise ConfigError if two of --set give one key, of which only one could hold."""
    given: dict[str, str] = {}
    for text in settings:
        key = text.partition("=")[0]
        if key in given:
            raise ConfigError(f"--set {given[key]} and --set {text} both give {key}: wanted one of them")
        given[key] = text


def require_apart_from_grid(seeds: str | None, scales: str | None, given: Iterable[str]) -> None:
    """Raise ConfigError if the options of a grid are given, and settings, by name, that say the same."""
    for option, key in ((seeds, "seed"), (scales, "guidance_scale")):
        if option is not None and key in given:
            raise ConfigError(f"{key} is what the grid varies, and is given beside it: leave one of them out")


def on_grid(
    requests: "list[Request]", seeds: str | None, scales: str | None, num: int, stage: str | None = None
) -> "tuple[list[Request], int]":
    """Return the requests of a grid and the columns of its sheet; without a grid the requests themselves, and 1.

    Raises:
        ConfigError: only one of the two is given, one cannot be read, or --num asks for more of each.
    """
    if seeds is None and scales is None:
        return requests, 1
    from ..inference.grid import grid_requests, read_scales, read_seeds

    if num != 1:
        raise ConfigError(f"--num {num}: a grid has one clip for each seed and scale: give more --grid-seeds")
    columns = read_scales(scales) if scales is not None else []
    rows = read_seeds(seeds) if seeds is not None else []
    return grid_requests(requests, rows, columns, stage=stage), len(columns)
