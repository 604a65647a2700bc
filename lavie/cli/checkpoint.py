"""The commands `lavie checkpoint ...`: whether checkpoints are whole, what they are, and the layout of before."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from ..console import TIME, make_console
from ..errors import CheckpointError, LavieError
from .progress import tell
from .runs import Overwrite

if TYPE_CHECKING:
    from ..training.checkpoint.survey import Seen

app = typer.Typer(name="checkpoint", help="Verify, list and convert checkpoints.", no_args_is_help=True)
Place = Annotated[Path, typer.Argument(metavar="DIR", help="A run's output_dir, or one checkpoint-<step> folder.")]
OLD = "the layout of before, without hashes"


@app.command()
def verify(place: Place) -> None:
    """Hash every file of every checkpoint. Exits with 1 if one is damaged, or has no hashes to compare with.

    Hidden folders that a killed process has left are looked at too: the next start or save of the run takes a whole
    one back, and a save deletes the others. What is wrong with them is told, and does not count.
    """
    from ..training.checkpoint.survey import survey

    found, done, bad = survey(place), 0, False
    total = sum(record["bytes"] for seen in found if not seen.old for record in seen.manifest.get("files", {}).values())
    move = tell("bytes read")

    def tick(count: int) -> None:
        """Count the bytes of a file that was read."""
        nonlocal done
        done += count
        move(done, total)

    for seen in found:
        fault = OLD if seen.old else seen.damage(hashes=True, tick=tick)
        if not seen.folder.is_dir():
            continue  # a run that goes on has deleted it meanwhile
        typer.echo(f"{seen.folder}: {_advice(seen) if seen.old else _verdict(seen, fault)}")
        bad |= fault is not None and not seen.folder.name.startswith(".")
    if bad:
        raise typer.Exit(1)


@app.command("list")
def list_command(place: Place) -> None:
    """Print a table of the checkpoints, the newest last, hidden folders behind them. Sizes are compared, no hashes."""
    from ..training.checkpoint.survey import size_on_disk, survey, written

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("checkpoint", overflow="fold")
    table.add_column("written")
    for name in ("size", "ranks", "ZeRO"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("state", min_width=20, overflow="fold")
    for seen in survey(place):
        time = written(seen.folder)
        facts = [str(seen.manifest.get(name, "-")) for name in ("world_size", "zero_stage", "dtype")]
        table.add_row(
            seen.folder.name,
            datetime.fromtimestamp(time).strftime(TIME) if time else "-",
            f"{size_on_disk(seen.folder) / 1e6:,.1f} MB",
            *facts,
            _advice(seen) if seen.old else _verdict(seen, seen.damage(hashes=False)),
        )
    make_console().print(table)


@app.command()
def convert(place: Place, overwrite: Overwrite = False) -> None:
    """Give checkpoints of the layout before the present one, under their names, bit for bit.

    The old ones stay as .checkpoint-<step>.old-layout beside them, whole, until you delete them: no run does.
    --overwrite replaces such a one of an earlier call.

    DeepSpeed's files are pickles, which could run code. They are read so that nothing in them runs.
    """
    from ..training.checkpoint.convert import convert as convert_one
    from ..training.checkpoint.old_layout import TRUSTED
    from ..training.checkpoint.survey import survey
    from ..training.output_dir import claim

    found = survey(place)
    shown = [seen for seen in found if not seen.folder.name.startswith(".")]
    old = [seen.folder for seen in shown if seen.old]
    failed = [f"{CheckpointError.__name__}: {seen.fault}" for seen in shown if seen.fault]
    if old:
        claim(old[0].resolve().parent)  # a run that saves there would delete what is half written
        typer.echo(
            "DeepSpeed's pickles are read by torch.load(weights_only=True): tensors and plain values. Of classes these "
            f"alone are let in, as empty stand-ins without code: {', '.join(name.split('.')[-1] for name in TRUSTED)}"
        )
    for folder in old:
        typer.echo(f"converting {folder}")
        try:
            kept = convert_one(folder, overwrite=overwrite)
        except (LavieError, OSError) as error:
            failed.append(f"{type(error).__name__}: {error}")
            continue
        typer.echo(f"converted {folder}. The old one is kept: delete {kept} when a run has gone on from the new one")
    for failure in failed:
        typer.echo(failure, err=True)
    if failed:
        raise typer.Exit(1)
    if not old:
        typer.echo(f"nothing to convert: no checkpoint in {place} has the layout of before")


def _verdict(seen: "Seen", fault: str | None) -> str:
    """Return what is said of a checkpoint of the present layout, by what is wrong with it."""
    if not seen.folder.name.startswith("."):
        return f"damaged: {fault}" if fault else "whole"
    return f"left behind, not whole: {fault}" if fault else "whole, hidden: a killed process left it"


def _advice(seen: "Seen") -> str:
    """Return what is said of a checkpoint of the layout before."""
    return f"{OLD}: kept by convert" if seen.folder.name.startswith(".") else f"{OLD}: lavie checkpoint convert"
