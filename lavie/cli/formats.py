"""`lavie export` and `lavie import`: networks between runs, exported folders, released files and 2-D UNets."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..config.names import StageName
from ..errors import ConfigError
from .runs import Checkpoint, Run, one_run

Overwrite = Annotated[bool, typer.Option(help="Replace an exported folder or a .pt file that lies at OUT.")]


def export_command(
    run: Run = None,
    out: Annotated[
        Path | None, typer.Argument(help="The new folder; with --format released, the new .pt file.")
    ] = None,
    checkpoint: Checkpoint = None,
    raw: Annotated[
        bool,
        typer.Option(help="The weights of the last step, in place of the averaged ones that samples are drawn by."),
    ] = False,
    format_: Annotated[
        Literal["diffusers", "released"],
        typer.Option(
            "--format", help="A folder that samples and starts runs, or the layout of LaVie's released files."
        ),
    ] = "diffusers",
    encoders: Annotated[
        bool, typer.Option(help="Copy the autoencoder and the text encoder into the folder, if they have weights.")
    ] = True,
    overwrite: Overwrite = False,
) -> None:
    """Write the network of a run for use elsewhere: a whole folder with a model card, or a file as released.

    A folder with its encoders also holds the code by which diffusers runs it without this project.
    """
    if checkpoint is not None and out is None:
        run, out = None, run  # --checkpoint RUN leaves one place, OUT
    folder = one_run(run, checkpoint)
    if out is None:
        raise ConfigError("OUT is missing: wanted the new folder, or with --format released the new .pt file")
    from ..inference.exchange.export import export_released, export_stage
    from ..training.consolidate import raw_weights

    weights = raw_weights if raw else None
    if format_ == "released":
        export_released(folder, out, raw=weights, overwrite=overwrite)
    else:
        export_stage(folder, out, raw=weights, encoders=encoders, overwrite=overwrite)
    typer.echo(out)


def import_command(
    src: Annotated[
        Path,
        typer.Argument(
            help="A released LaVie .pt; a single .safetensors or .ckpt of Stable Diffusion 1.x, or a folder with a 2-D "
            "UNet in diffusers' format, as Stable Diffusion 1.4 or its x4 upscaler, to which fresh temporal layers are "
            "added; or an exported folder."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The new folder.")],
    stage: Annotated[StageName, typer.Option(help="What the network does.")],
    pretrained: Annotated[
        Path | None,
        typer.Option(
            help="A folder in diffusers' format with vae, text_encoder and tokenizer to copy: Stable Diffusion 1.4 "
            "for base and interpolation, its x4 upscaler for vsr. A single file's own encoders take the place of "
            "theirs. Without them the result starts runs, but samples nothing. Default: SRC, if it has them."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="For a network that is not the released one: the folder of the run or export that the file was made "
            "of, or a JSON file in the style of diffusers' unet/config.json. Default: the released one, or what SRC "
            "says."
        ),
    ] = None,
    extract_ema: Annotated[
        bool, typer.Option("--extract-ema", help="Take the averaged weights (keys model_ema.) of single files.")
    ] = False,
    community: Annotated[
        Path | None,
        typer.Option(
            "--add-difference",
            help="A community checkpoint of Stable Diffusion 1.x, a file or folder: --scale times its difference to "
            "--original is added to the spatial layers of SRC.",
        ),
    ] = None,
    original: Annotated[
        Path | None,
        typer.Option(help="What --add-difference was made from, a file or folder. Default: --pretrained."),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(min=0, help="How far --add-difference moves SRC: 0 not at all, 1 as far as itself. Default: 0.5."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make an exported folder of a network from elsewhere. Released weights are kept bit for bit, in their dtypes.

    Files are read as plain tensors: nothing in them is run.
    """
    if community is None and (original is not None or scale is not None):
        raise ConfigError("--original and --scale belong to --add-difference, which is missing")
    from ..config.add_difference import AddDifferenceConfig
    from ..config.load import validate
    from ..inference.exchange.import_weights import import_stage

    added = None
    if community is not None:
        given = {"weights": str(community), "original": None if original is None else str(original), "scale": scale}
        values = {name: value for name, value in given.items() if value is not None}
        added = validate(AddDifferenceConfig, values, "--add-difference, --original, --scale")
    import_stage(
        src,
        out,
        stage,
        pretrained=pretrained,
        config=config,
        extract_ema=extract_ema,
        added=added,
        overwrite=overwrite,
    )
    typer.echo(out)
