"""The commands `lavie curate score` and `lavie curate dedup`."""

from pathlib import Path
from typing import Annotated, Any

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


def score_command(
    out: Out,
    changes: Changes = None,
    clip: Annotated[
        Path | None,
        typer.Option(help="CLIP that embeds clips: a folder of transformers, or OpenAI's .pt. Default: no embeddings."),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(help="Aesthetic head on its embeddings, LAION's .pth. Default: no ratings."),
    ] = None,
    ocr: Annotated[
        bool | None, typer.Option("--ocr/--no-ocr", help="Read text in the pictures (lavie\\[ocr]). Default: no.")
    ] = None,
    scorer: Annotated[
        list[str] | None, typer.Option(help="Scorer of another package, by its name; several times for several.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="One of motion, hash, text, clip and scorers; several times for several. Default: all."),
    ] = None,
    config: ConfigFile = None,
    engine: EngineName = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Score each clip: motion, light and sharpness; hash and overlay; if asked for, text, embeddings and aesthetics."""
    from ..config.curate import load_curate
    from ..curation.score.choice import wanted_scores

    given: dict[str, Any] = {
        "clip": {"model": None if clip is None else str(clip), "head": None if head is None else str(head)},
        "text": {"ocr": ocr},
        "scorers": {name: {} for name in scorer or ()},
    }
    found = load_curate(out, config, changes or (), given | engine_changes(engine, workers, address))
    do_stages(out, found, wanted_scores(found, only or ()))


def dedup_command(
    out: Out,
    changes: Changes = None,
    config: ConfigFile = None,
    engine: EngineName = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Find clips that show what a better one shows, over all films. dedup.similar=0.95 compares embeddings too."""
    from ..config.curate import load_curate

    do_stages(out, load_curate(out, config, changes or (), engine_changes(engine, workers, address)), ["dedup"])
