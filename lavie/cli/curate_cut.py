"""The command `lavie curate cut`."""

from typing import Annotated

import typer

from .curate_common import (
    Address,
    Changes,
    ConfigFile,
    EngineName,
    Out,
    Workers,
    do_stages,
    engine_changes,
)


def cut_command(
    out: Out,
    changes: Changes = None,
    splitter: Annotated[
        str | None,
        typer.Option(help="What finds cuts: sharp (the default), content:27, adaptive:3 or transnet:0.5."),
    ] = None,
    min_frames: Annotated[int | None, typer.Option(min=1, help="Frames of the shortest clip. Default: 16.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Seconds of the longest clip; longer shots are split evenly. Default: 20.")
    ] = None,
    keep_audio: Annotated[
        bool | None, typer.Option("--keep-audio/--no-audio", help="Whether clips have sound. Default: not.")
    ] = None,
    config: ConfigFile = None,
    engine: EngineName = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Cut the films into clips of one shot each: copied where that is exact to the frame, encoded where it is not."""
    from ..config.curate import load_curate
    from ..curation.cut.splitters.choice import find_splitter

    own = {"splitter": splitter, "min_frames": min_frames, "max_seconds": max_seconds, "keep_audio": keep_audio}
    found = load_curate(out, config, changes or (), {"cut": own} | engine_changes(engine, workers, address))
    find_splitter(found.cut.splitter)  # what it needs and lacks is named before the settings are kept
    do_stages(out, found, ["cut"])
