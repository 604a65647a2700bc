"""The commands `lavie config ...`: the configs that come with the package."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from .runs import Overwrite

app = typer.Typer(name="config", help="See and copy the configs that come with the package.", no_args_is_help=True)


@app.command("list")
def list_command() -> None:
    """Name the shipped configs; `lavie train NAME` and --deepspeed NAME take these names."""
    from ..config.shipped import SHIPPED, shipped_names

    for name in shipped_names():
        first = (SHIPPED / name).read_text(encoding="utf-8").splitlines()[0]
        typer.echo(
            f"{name:25s} {first.lstrip('# ').partition(':')[0] if first.startswith('#') else 'settings of DeepSpeed'}"
        )


@app.command("show")
def show_command(name: Annotated[str, typer.Argument(help="A name of `lavie config list`, or a file.")]) -> None:
    """Print a config."""
    from ..config.shipped import find_config

    typer.echo(find_config(name).read_text(encoding="utf-8"), nl=False)


@app.command("copy")
def copy_command(
    names: Annotated[list[str] | None, typer.Argument(help="Names of `lavie config list`. Default: all.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for them.")] = Path("configs"),
    overwrite: Overwrite = False,
) -> None:
    """Copy shipped configs into a folder, to change them there."""
    from ..config.shipped import SHIPPED, find_config, shipped_names
    from ..files import require_free

    pairs = []
    shipped = shipped_names()
    for name in names or shipped:
        source = SHIPPED / name if name in shipped else find_config(name)
        pairs.append((source, out / name.removeprefix("configs/")))
    for _, target in pairs:
        require_free(target, overwrite=overwrite)
    for source, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        typer.echo(target)


@app.command("keys")
def keys_command() -> None:
    """Print every key of a config: its type, its default and what it means."""
    from ..config.reference import render

    typer.echo(render(), nl=False)
