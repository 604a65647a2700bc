"""`lavie plot`: the losses of runs as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..files import require_free
from .runs import Checkpoint, Overwrite, one_run, run_of

PICTURE = "losses.png"


def plot(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="A run's output_dir, or several to draw beside each other.")
    ] = None,
    checkpoint: Checkpoint = None,
    out: Annotated[
        Path | None,
        typer.Option(help=f"The PNG; default: {PICTURE} in the run's folder, or here where there are several runs."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw the loss curves of a run, or of several in one picture."""
    places = runs or []
    several = len(places) > 1
    if several and checkpoint is not None:
        raise ConfigError(
            f"--checkpoint is {checkpoint} and several runs are given: name them all without --checkpoint"
        )
    folders = [run_of(run) for run in (places if several else [one_run(next(iter(places), None), checkpoint)])]
    target = out or (Path(PICTURE) if several else folders[0] / PICTURE)
    if out or several:  # a run's own picture is drawn anew as the run goes on
        require_free(target, overwrite=overwrite)
    from ..evaluation.curves import plot_losses

    plot_losses(folders, target)
    typer.echo(target)
