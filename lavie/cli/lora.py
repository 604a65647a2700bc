"""The commands `lavie lora ...`: what a LoRA file is, its layout and merging; training is in lora_train.py."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import ConfigError
from .lora_train import compare_command, score_command, train_command, word_command
from .loras import Loras, LoraTextScale, read_loras
from .runs import Overwrite

if TYPE_CHECKING:
    from ..models.lora.change import Change
    from ..models.lora.read import LoraFile

app = typer.Typer(name="lora", help="Train adapters; look at LoRA files, convert and merge them.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA: a .safetensors or .bin file, or a folder.")]
Network = Annotated[
    Path | None,
    typer.Option(
        help="A run's output_dir, a checkpoint or an exported folder, whose layers the file names. Default: Stable "
        "Diffusion 1.4's."
    ),
]
SHOWN = ("ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "modelspec.architecture")
"""What is shown of the texts that a file has about itself."""


@app.command()
def info(file: File, network: Network = None) -> None:
    """Tell the layout of a LoRA, and how many weights it changes; of any other file, what it is. None of it is run."""
    lora = _read(file, network)
    typer.echo(f"{lora.source}: a LoRA in the layout {lora.layout}")
    for name, changes in (("UNet", lora.unet), ("text encoder", lora.text)):
        typer.echo(f"{name}: {_told(changes.values())}")
    if lora.text_width:
        typer.echo(f"reads {lora.text_width} text features")
    for key in SHOWN:
        if key in lora.metadata:
            typer.echo(f"{key}: {lora.metadata[key]}")
    for key, reason in lora.unread.items():
        typer.echo(f"{key} is left out: {reason}")
    typer.echo(f"fits {network}" if network is not None else _fits_released(lora))


@app.command()
def convert(
    file: File,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="diffusers: a folder or a .safetensors file; kohya: a file; peft: a folder."
        ),
    ],
    format_: Annotated[
        Literal["diffusers", "kohya", "peft"], typer.Option("--format", help="Whose layout; A1111 reads kohya's.")
    ],
    scale: Annotated[float, typer.Option(help="What its changes are multiplied by.")] = 1.0,
    network: Network = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a LoRA in another layout, in float32, with the scale folded in and alpha the rank: no reader loses it."""
    from ..models.lora.write import write_lora

    for path in write_lora(_read(file, network), out, format_, scale=scale, overwrite=overwrite):
        typer.echo(path)


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(help="A run's output_dir, a checkpoint-<step> or exported folder.")],
    out: Annotated[Path, typer.Argument(help="The new folder.")],
    lora: Loras = None,
    lora_text_scale: LoraTextScale = None,
    encoders: Annotated[
        bool, typer.Option(help="Copy the autoencoder and the text encoder into the folder, if they have weights.")
    ] = True,
    overwrite: Overwrite = False,
) -> None:
    """Write a network with LoRAs merged into its weights, and those of its text encoder, as an exported folder."""
    loras = read_loras(lora, lora_text_scale)
    if not loras:
        raise ConfigError("--lora is missing: wanted one file or more to merge")
    from ..inference.exchange.export import export_stage

    export_stage(run, out, encoders=encoders, overwrite=overwrite, loras=loras)
    typer.echo(out)


app.command("train", context_settings={"ignore_unknown_options": True})(train_command)
app.command("compare")(compare_command)
app.command("word")(word_command)
app.command("score")(score_command)


def _fits_released(lora: "LoraFile") -> str:
    """Return whether a LoRA fits the networks that are known without a folder."""
    from ..errors import CheckpointError
    from ..models.lora.attach import require_lora_fit
    from ..models.lora.read import released_network

    try:
        require_lora_fit(lora, released_network())
    except CheckpointError as error:
        return f"fits no released network ({error}): --network FOLDER compares it with another one"
    return "fits Stable Diffusion 1.x, and so LaVie's base and interpolation networks"


def _read(file: Path, network: Path | None) -> "LoraFile":
    """Return a LoRA, whose changes fit the network if one is given."""
    from ..models.lora.read import read_lora

    if network is None:
        return read_lora(file)
    import torch

    from ..config.load import load_config
    from ..models.lora.attach import require_lora_fit
    from ..models.unet import VideoUNet
    from ..run_folder import RUN_CONFIG, find_stage

    with torch.device("meta"):
        built = VideoUNet(load_config(find_stage(network) / RUN_CONFIG).model)
    lora = read_lora(file, built)
    require_lora_fit(lora, built)
    return lora


def _told(changes: "Iterable[Change]") -> str:
    """Return how many weights are changed, by kind, rank and scale."""
    from ..models.lora.change import Hadamard, Kronecker, LowRank

    names = {LowRank: "LoRA", Hadamard: "LoHa", Kronecker: "LoKr"}
    kinds: Counter[str] = Counter()
    for change in changes:
        kind = names.get(type(change), "whole differences")
        if isinstance(change, LowRank):
            kind += f" of rank {change.down.shape[0]}"
        multiplier = getattr(change, "multiplier", 1.0)
        kinds[f"{kind}, alpha / rank {multiplier:g}" if kind != "whole differences" else kind] += 1
    told = "; ".join(f"{count} by {kind}" for kind, count in sorted(kinds.items()))
    return f"{sum(kinds.values())} weights" + (f" ({told})" if told else "")
