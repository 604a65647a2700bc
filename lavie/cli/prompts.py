"""The options of the commands that draw from prompts."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError

Prompt = Annotated[list[str] | None, typer.Option(help="What to draw; may be given several times.")]
PromptFile = Annotated[Path | None, typer.Option(help="A text file with one prompt per line.")]


def read_prompts(prompts: list[str] | None, file: Path | None) -> list[str]:
    """Return the prompts of --prompt, then the lines of --prompt-file that are not empty.

    Raises:
        ConfigError: the file cannot be read, or there is no prompt at all.
    """
    found = list(prompts or [])
    if file:
        try:
            found += [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--prompt-file {file}: cannot be read: {error}") from None
    if not found:
        raise ConfigError(
            f"--prompt-file {file}: no line has a prompt" if file else "got no prompt: wanted --prompt or --prompt-file"
        )
    return found
