"""`lavie plot`: a run's losses as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from ..files import require_free
from ..run_folder import METRICS
from .runs import Checkpoint, Overwrite, Run, one_run


def plot(
    run: Run = None,
    checkpoint: Checkpoint = None,
    out: Annotated[Path | None, typer.Option(help="The PNG; default: losses.png in the run's folder.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a run's loss curves."""
    # A checkpoint lies in its run's folder, which has the metrics.
    folder = one_run(run, checkpoint)
    if not (folder / METRICS).exists() and (folder.parent / METRICS).exists():
        folder = folder.parent
    target = out or folder / "losses.png"
    if out:  # the run's own picture is drawn anew as the run goes on
        require_free(target, overwrite=overwrite)
    from ..evaluation.curves import plot_losses

    plot_losses(folder / METRICS, target)
    typer.echo(target)
