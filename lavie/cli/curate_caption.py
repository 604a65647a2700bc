"""The commands `lavie curate caption` and `lavie curate align`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import make_console
from .curate_common import (
    Address,
    Changes,
    ConfigFile,
    EngineName,
    Out,
    Workers,
    do_stages,
    engine_changes,
    settings,
)
from .tables import print_counts


def caption_command(
    out: Out,
    changes: Changes = None,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="sidecar: texts beside the films; sidecar:TABLE; transformers:PATH; vllm:PATH; command:PROGRAM. "
            "Default: the one last used."
        ),
    ] = None,
    config: ConfigFile = None,
    engine: EngineName = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Caption the clips that the rules of select keep, as far as these are about earlier columns.

    Run again with other rules: clips that have a caption keep it. What was said is kept beside the cleaned caption.
    """
    from ..config.curate import load_curate, stage_config
    from ..curation.caption.choice import check_captioner
    from ..curation.films import read_films

    read_films(out)  # before the settings are kept
    given: dict[str, Any] = {"caption": {"captioner": captioner}} | engine_changes(engine, workers, address)
    check_captioner(load_curate(out, config, changes or (), given).caption)
    found = settings(out, config, changes, given)
    if do_stages(out, {"caption": stage_config(found, "caption")}, found.engine):
        _print_captions(out)


def align_command(
    out: Out,
    changes: Changes = None,
    config: ConfigFile = None,
    engine: EngineName = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Score how well captions fit their clips, by the CLIP that lavie curate score --clip has embedded them with."""
    from ..config.curate import stage_config
    from ..curation.films import read_films

    read_films(out)  # before the settings are kept
    found = settings(out, config, changes, engine_changes(engine, workers, address))
    do_stages(out, {"align": stage_config(found, "align")}, found.engine)


def _print_captions(out: Path) -> None:
    """Print how many clips have captions, why others have none, and which are longer than CLIP reads."""
    from ..curation.caption.told import told_captions

    told = told_captions(out)
    rows = [("clips", told.clips), ("captioned", told.captioned)]
    rows += [("dropped by rules over earlier columns", told.dropped)] if told.dropped else []
    rows += [(f"asked for, and none: {reason}", count) for reason, count in told.refused.items()]
    rows += [(told.rule, told.long)] if told.long else []
    print_counts(make_console(), rows)
