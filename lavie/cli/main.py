"""The command `lavie`: its commands, how they end, and what --version prints."""

import io
import itertools
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..environment import prepare_environment
from ..errors import ConfigError, LavieError
from ..training.signals import INTERRUPTED
from .ablate import app as ablate_app
from .checkpoint import app as checkpoint_app
from .config import app as config_app
from .curate import app as curate_app
from .data import app as data_app
from .doctor import app as doctor_app
from .eval import app as eval_app
from .formats import export_command, import_command
from .generate import generate
from .lora import app as lora_app
from .plan import plan
from .play import play
from .plot import plot
from .report import report
from .sample import sample
from .score import score

MAY_BE_EMPTY = ("--prompt", "--negative-prompt")
"""The options whose text may be empty."""


HINTS = {
    FileExistsError: ": a file lies where a folder is wanted; give another place",
    NotADirectoryError: ": a part of the path is a file, where a folder is wanted; give another place",
    IsADirectoryError: ": a folder lies where a file is wanted; give another place",
    PermissionError: ": you may not read or write there; give another place",
}
"""What follows the operating system's words for what is wrong with a path."""


class Commands(TyperGroup):
    """The commands, of which none ends in a traceback when it is interrupted or nobody reads what it prints."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command: ^C says so in one line, and a closed pipe (`lavie ... | head`) is no error."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # What is still buffered would fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        typer.echo(f"lavie {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Training, data, sampling, formats and scores of LaVie, the text-to-video cascade."""


@app.command("train", add_help_option=False, context_settings={"ignore_unknown_options": True})
def train_command(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG.yaml] [key=value ...] [--dry-run | --replay STEP]")
    ] = None,
) -> None:
    """Train one stage: the same as train.py. On several GPUs: deepspeed --module lavie.train ..."""
    from ..train import main as train

    train(words or [], "lavie train")


app.add_typer(ablate_app)
app.add_typer(checkpoint_app)
app.add_typer(config_app)
app.add_typer(curate_app)
app.add_typer(data_app)
app.add_typer(doctor_app)
app.add_typer(eval_app)
app.add_typer(lora_app)
app.command()(sample)
app.command()(score)
app.command()(generate)
app.command()(plan)
app.command()(play)
app.command()(plot)
app.command()(report)
app.command("export")(export_command)
app.command("import")(import_command)


def main() -> None:
    """Run the command; user errors, and files that cannot be read or written, print their message and exit with 1.

    ^C ends any command with one line and exit code 130.
    """
    prepare_environment()
    # A name of a file that is no UTF-8 can be told too.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _require_words(sys.argv[1:])
        sys.argv[1:] = map(_with_home, sys.argv[1:])
        app()
    except (LavieError, OSError) as error:
        hint = next((hint for kind, hint in HINTS.items() if isinstance(error, kind)), "")
        sys.exit(f"{type(error).__name__}: {error}{hint}")


def _require_words(words: Sequence[str]) -> None:
    """Raise ConfigError at an empty word where text is not asked for: a path of a shell's variable that is not set.

    As a path it would be the present folder, which nobody has named.
    """
    if words[:1] == ["train"]:  # whose --key= stands for null
        return
    for before, word in itertools.pairwise(["", *words]):
        name, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if (equals or not word) and not value and name not in MAY_BE_EMPTY:
            where = f"after {before}" if before and not equals else f"in {word}" if equals else "first"
            raise ConfigError(f"an empty word {where}: is a variable of the shell not set? Wanted a path or a value")


def _with_home(word: str) -> str:
    """Return a word of the command line with the home folder for the ~ that shells leave as it is behind --name=."""
    return re.sub(r"(--[\w-]+=)(~/.*)", lambda match: match[1] + os.path.expanduser(match[2]), word, flags=re.DOTALL)


if __name__ == "__main__":
    main()
