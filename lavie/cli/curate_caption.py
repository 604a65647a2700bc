"""The commands `lavie curate caption` and `lavie curate align`."""

from pathlib import Path
from typing import Annotated

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
    from ..config.curate import load_curate
    from ..curation.caption.choice import check_captioner

    given = {"caption": {"captioner": captioner}} | engine_changes(engine, workers, address)
    found = load_curate(out, config, changes or (), given)
    check_captioner(found.caption)
    if do_stages(out, found, ["caption"]):
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
    from ..config.curate import load_curate

    do_stages(out, load_curate(out, config, changes or (), engine_changes(engine, workers, address)), ["align"])


def _print_captions(out: Path) -> None:
    """Print how many clips have captions, why others have none, and which are longer than CLIP reads."""
    from ..curation.caption.told import told_captions

    told = told_captions(out)
    rows = [("clips", told.clips), ("captioned", told.captioned)]
    rows += [("dropped by rules over earlier columns", told.dropped)] if told.dropped else []
    rows += [(f"asked for, and none: {reason}", count) for reason, count in told.refused.items()]
    rows += [(told.rule, told.long)] if told.long else []
    print_counts(make_console(), rows)
