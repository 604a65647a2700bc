"""The command `lavie`: data, sampling, formats and scores. Training is `train.py`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import LavieError
from ..run_folder import METRICS
from .data import app as data_app
from .doctor import app as doctor_app
from .formats import export_command, import_command
from .generate import generate
from .sample import sample
from .score import score

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.add_typer(data_app)
app.add_typer(doctor_app)

app.command()(sample)
app.command()(score)
app.command()(generate)
app.command("export")(export_command)
app.command("import")(import_command)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A run's output_dir.")],
    out: Annotated[Path | None, typer.Option(help="The PNG; default: losses.png in the run's folder.")] = None,
) -> None:
    """Draw a run's loss curves."""
    from ..evaluation.curves import plot_losses

    target = out or run / "losses.png"
    plot_losses(run / METRICS, target)
    typer.echo(target)


def main() -> None:
    """Run the command; user errors, and files that cannot be read or written, print their message and exit with 1."""
    try:
        app()
    except (LavieError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
