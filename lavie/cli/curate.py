"""The commands `lavie curate ...`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..console import make_console
from .curate_caption import align_command, caption_command
from .curate_common import (
    Address,
    Changes,
    ConfigFile,
    EngineName,
    Out,
    Workers,
    bring_up_to_date,
    engine_changes,
    find_films,
)
from .curate_cut import cut_command
from .curate_run import demo_command, report_command, run_command
from .curate_score import dedup_command, score_command
from .curate_select import quality_command, select_command
from .curate_shards import shards_command

app = typer.Typer(
    name="curate", help="Make a captioned, filtered, deduplicated set of raw films.", no_args_is_help=True
)


app.command("run")(run_command)
app.command("demo")(demo_command)


@app.command("status")
def status_command(out: Out) -> None:
    """Show how far each stage is, with the settings last used."""
    from ..config.curate import load_curate, stage_config
    from ..config.curate_score import SCORER
    from ..curation.films import read_films
    from ..curation.run import stage_status
    from ..curation.stage import STAGES

    films, config = read_films(out), load_curate(out)
    table = Table()
    for name in ("stage", "done", "out of date", "missing", "rows", "rejected"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in (*STAGES, *(f"{SCORER}{name}" for name in config.scorers)):
        found = stage_status(out, stage, stage_config(config, stage), films)
        numbers = (found.done, found.stale, found.missing, found.rows, found.rejected)
        table.add_row(stage, *map(str, numbers))
    console = make_console()
    console.print(f"{len(films.films)} films of {films.src} in {len(films.units)} units")
    console.print(table)


@app.command("scan")
def scan_command(
    src: Annotated[Path, typer.Argument(help="Folder with films, and below it.")],
    out: Out,
    changes: Changes = None,
    config: ConfigFile = None,
    engine: EngineName = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """List the films of SRC and measure every frame of them. Run again with more films: what OUT holds stays."""
    from ..config.curate import keep, load_curate
    from ..curation.engine.choice import open_engine

    # Whatever is wrong with the settings is found before the first film is looked at.
    found = load_curate(out, config, changes or (), engine_changes(engine, workers, address))
    with open_engine(found.engine) as opened:
        if opened is not None:
            find_films(src, out)
            keep(out, found)
            bring_up_to_date(out, found, ["scan"], opened)


app.command("cut")(cut_command)
app.command("score")(score_command)
app.command("dedup")(dedup_command)
app.command("caption")(caption_command)
app.command("align")(align_command)
app.command("select")(select_command)
app.command("quality")(quality_command)
app.command("shards")(shards_command)
app.command("report")(report_command)
